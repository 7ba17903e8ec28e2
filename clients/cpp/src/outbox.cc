#include "outbox.h"

#include <utility>

namespace auxilium::internal {
namespace {

using Lock = std::unique_lock<std::mutex>;

}  // namespace

std::int64_t Outbox::next_seq() const {
  const Lock lock(mutex_);
  return next_;
}

std::int64_t Outbox::oldest() const {
  const Lock lock(mutex_);
  return kept_.empty() ? next_ : kept_.begin()->first;
}

bool Outbox::full() const {
  const Lock lock(mutex_);
  return steps_ >= most_;
}

std::int64_t Outbox::steps() const {
  const Lock lock(mutex_);
  return steps_;
}

std::int64_t Outbox::acknowledged() const {
  const Lock lock(mutex_);
  return acknowledged_;
}

std::int64_t Outbox::rejected() const {
  const Lock lock(mutex_);
  return rejected_;
}

void Outbox::put(Chunk chunk) {
  const Lock lock(mutex_);
  next_ = chunk.seq() + 1;
  steps_ += chunk.count();
  const std::int64_t seq = chunk.seq();
  kept_[seq] = std::make_shared<const Chunk>(std::move(chunk));
  changed_.notify_all();
}

void Outbox::begin(std::int64_t durable) {
  const Lock lock(mutex_);
  let_go(durable);
  next_sent_ = kept_.empty() ? next_ : kept_.begin()->first;
  changed_.notify_all();
}

void Outbox::stored(std::int64_t durable) {
  const Lock lock(mutex_);
  let_go(durable);
  changed_.notify_all();
}

void Outbox::let_go(std::int64_t durable) {
  while (!kept_.empty() && kept_.begin()->first <= durable) {
    steps_ -= kept_.begin()->second->count();
    acknowledged_ += kept_.begin()->second->count();
    kept_.erase(kept_.begin());
  }
}

void Outbox::refused(std::int64_t seq) {
  const Lock lock(mutex_);
  const auto found = kept_.find(seq);
  if (found != kept_.end()) rejected_ += found->second->count();
}

std::shared_ptr<const Outbox::Chunk> Outbox::next(const std::atomic<bool>& gone) {
  Lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return gone || next_sent_ < next_ || closed_; });
    if (gone || next_sent_ >= next_) return nullptr;
    const auto found = kept_.find(next_sent_++);
    if (found != kept_.end()) return found->second;
  }
}

void Outbox::close() {
  const Lock lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

bool Outbox::closed() const {
  const Lock lock(mutex_);
  return closed_;
}

void Outbox::wake() {
  const Lock lock(mutex_);
  changed_.notify_all();
}

bool Outbox::drained(std::chrono::steady_clock::time_point until, const std::function<bool()>& enough) {
  Lock lock(mutex_);
  changed_.wait_until(lock, until, [&] { return kept_.empty() || enough(); });
  return kept_.empty();
}

void Outbox::wait_a_moment() {
  Lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(10));
}

}  // namespace auxilium::internal
