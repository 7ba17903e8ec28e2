// Chunks between an agent and its server: kept until they are stored there.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "auxilium/v1/experience.pb.h"

namespace auxilium::internal {

class Outbox {
 public:
  using Chunk = ::auxilium::v1::Chunk;

  // `most`: steps that are kept before it is full.
  explicit Outbox(std::int64_t most) : most_(most) {}

  std::int64_t next_seq() const;
  // The lowest chunk that is still here, or would be.
  std::int64_t oldest() const;
  bool full() const;
  std::int64_t steps() const;
  std::int64_t acknowledged() const;
  std::int64_t rejected() const;

  void put(Chunk chunk);
  // A connection begins; the server has stored everything up to `durable`.
  void begin(std::int64_t durable);
  void stored(std::int64_t durable);
  // The server put a chunk aside.
  void refused(std::int64_t seq);
  // The next chunk to send, as soon as there is one; null: the connection is gone, or all that will come was sent.
  std::shared_ptr<const Chunk> next(const std::atomic<bool>& gone);
  // Nothing more will come.
  void close();
  bool closed() const;
  void wake();
  // Wait until everything is stored, or `enough` says that there is no use; whether all is.
  bool drained(std::chrono::steady_clock::time_point until, const std::function<bool()>& enough);
  // Wait for a change, for a moment at most.
  void wait_a_moment();

 private:
  void let_go(std::int64_t durable);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::int64_t most_;
  std::map<std::int64_t, std::shared_ptr<const Chunk>> kept_;
  std::int64_t next_ = 1;
  std::int64_t next_sent_ = 1;
  std::int64_t steps_ = 0;
  std::int64_t acknowledged_ = 0;
  std::int64_t rejected_ = 0;
  bool closed_ = false;
};

}  // namespace auxilium::internal
