#include "packer.h"

#include <cmath>
#include <string>

namespace auxilium::internal {
namespace {

namespace v1 = ::auxilium::v1;

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers travel as they lie in memory here");

template <typename Number>
void append(std::string& slab, const std::vector<Number>& numbers) {
  slab.append(reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(Number));
}

// A span for each version of each episode, and what was seen after each.
void add_spans(v1::Chunk& chunk, std::string& following, const Rows& rows) {
  const std::size_t count = rows.versions.size();
  const std::size_t width = count > 0 ? rows.observations.size() / count : 0;
  for (std::size_t first = 0; first < count;) {
    std::size_t last = first + 1;
    while (last < count && rows.versions[last] == rows.versions[first]) ++last;
    const bool whole = last == count;
    v1::Span& span = *chunk.add_spans();
    span.set_episode(rows.episode);
    span.set_start(rows.start + static_cast<std::int64_t>(first));
    span.set_count(static_cast<int>(last - first));
    span.set_version(rows.versions[first]);
    span.set_terminated(whole && rows.terminated);
    span.set_truncated(whole && rows.truncated);
    span.set_has_following(!whole || rows.following.has_value());
    if (!whole) {
      following.append(reinterpret_cast<const char*>(rows.observations.data() + last * width), width * sizeof(float));
    } else if (rows.following) {
      append(following, *rows.following);
    }
    first = last;
  }
}

}  // namespace

v1::Chunk pack(std::int64_t seq, const std::vector<Rows>& taken, const Space& action, std::int64_t mask_len) {
  v1::Chunk chunk;
  chunk.set_seq(seq);
  std::string& observations = *chunk.mutable_observations()->add_slabs();
  std::string& following = *chunk.mutable_following()->add_slabs();
  std::string& actions = *chunk.mutable_actions()->add_slabs();
  bool known = true;
  bool masked = false;
  int count = 0;
  for (const Rows& rows : taken) {
    count += static_cast<int>(rows.versions.size());
    append(observations, rows.observations);
    if (action.kind == Space::Kind::kDiscrete) {
      append(actions, rows.indices);
    } else {
      append(actions, rows.taken);
    }
    append(*chunk.mutable_rewards(), rows.rewards);
    append(*chunk.mutable_log_probs(), rows.log_probs);
    append(*chunk.mutable_masks(), rows.masks);
    for (const float one : rows.log_probs) known = known && !std::isnan(one);
    for (const std::uint8_t one : rows.masks) masked = masked || one == 0;
    add_spans(chunk, following, rows);
  }
  chunk.set_count(count);
  if (!known) chunk.clear_log_probs();
  if (mask_len == 0 || !masked) chunk.clear_masks();
  return chunk;
}

::simulation::v2::Space message_of(const Space& space) {
  ::simulation::v2::Space message;
  if (space.kind == Space::Kind::kDiscrete) {
    message.set_dtype(::simulation::v2::DTYPE_INT64);
    message.mutable_discrete()->set_n(space.n);
    message.mutable_discrete()->set_start(space.start);
    return message;
  }
  message.set_dtype(::simulation::v2::DTYPE_FLOAT32);
  for (const std::int64_t size : space.shape) message.add_shape(size);
  append(*message.mutable_box()->mutable_low(), space.low);
  append(*message.mutable_box()->mutable_high(), space.high);
  return message;
}

}  // namespace auxilium::internal
