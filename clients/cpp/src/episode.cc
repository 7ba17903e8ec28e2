#include "episode.h"

#include <utility>

#include "auxilium/errors.h"

namespace auxilium::internal {

std::int64_t Episode::add(const Choice& choice) {
  steps_.push_back({choice.seen, choice.mask, choice.index, choice.taken, static_cast<float>(choice.log_prob),
                    choice.version, std::nullopt});
  next_.reset();
  return base_ + waiting() - 1;
}

void Episode::put_reward(std::int64_t step, float reward) {
  if (step < base_) {
    throw RewardTooLate("step " + std::to_string(step) + " of episode '" + name_ +
                        "' was sent already; say rewards before the episode ends, or end it with rewards_follow");
  }
  steps_[static_cast<std::size_t>(step - base_)].reward = reward;
}

void Episode::end(bool terminated, const std::vector<float>& last, bool rewards_follow) {
  next_.reset();
  if (!last.empty()) next_ = last;
  terminated_ = terminated;
  truncated_ = !terminated;
  rewards_follow_ = rewards_follow;
}

std::int64_t Episode::ready(bool force) const {
  std::int64_t there = waiting();
  if (!over() && !next_) there = there > 0 ? there - 1 : 0;
  if (force || (over() && !rewards_follow_)) return there;
  for (std::int64_t i = 0; i < there; ++i) {
    if (!steps_[static_cast<std::size_t>(i)].reward) return i;
  }
  return there;
}

Rows Episode::take(std::int64_t count) {
  Rows rows;
  const bool all = count == waiting();
  rows.episode = number_;
  rows.start = base_;
  rows.terminated = all && terminated_;
  rows.truncated = all && truncated_;
  const auto size = static_cast<std::size_t>(count);
  rows.following = all ? next_ : steps_[size].seen;
  for (std::size_t i = 0; i < size; ++i) {
    const Taken& step = steps_[i];
    rows.observations.insert(rows.observations.end(), step.seen.begin(), step.seen.end());
    rows.masks.insert(rows.masks.end(), step.mask.begin(), step.mask.end());
    rows.indices.push_back(step.index);
    rows.taken.insert(rows.taken.end(), step.taken.begin(), step.taken.end());
    rows.rewards.push_back(step.reward.value_or(0.0F));
    rows.log_probs.push_back(step.log_prob);
    rows.versions.push_back(step.version);
  }
  steps_.erase(steps_.begin(), steps_.begin() + count);
  base_ += count;
  return rows;
}

}  // namespace auxilium::internal
