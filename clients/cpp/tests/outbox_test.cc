#include <gtest/gtest.h>

#include <thread>

#include "outbox.h"

namespace auxilium::internal {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

Outbox::Chunk chunk(std::int64_t seq, int count) {
  Outbox::Chunk made;
  made.set_seq(seq);
  made.set_count(count);
  return made;
}

bool never() { return false; }

TEST(Outbox, KeepsChunksUntilTheyAreStored) {
  Outbox box(10);
  const std::atomic<bool> gone{false};
  for (int seq = 1; seq <= 3; ++seq) box.put(chunk(seq, 4));
  EXPECT_TRUE(box.full());
  EXPECT_EQ(box.next(gone)->seq(), 1);
  EXPECT_EQ(box.next(gone)->seq(), 2);
  box.stored(1);
  EXPECT_EQ(box.steps(), 8);
  EXPECT_FALSE(box.full());
  EXPECT_EQ(box.oldest(), 2);
  box.begin(1);  // another connection: what was not stored goes again
  EXPECT_EQ(box.next(gone)->seq(), 2);
  box.begin(3);  // the server has it all
  EXPECT_EQ(box.acknowledged(), 12);
  EXPECT_EQ(box.next_seq(), 4);
  EXPECT_TRUE(box.drained(steady_clock::now(), never));
}

TEST(Outbox, CountsWhatIsPutAside) {
  Outbox box(10);
  box.put(chunk(1, 4));
  box.refused(1);
  box.refused(7);
  EXPECT_EQ(box.rejected(), 4);
}

TEST(Outbox, WhoWaitsIsWoken) {
  Outbox box(10);
  std::atomic<bool> gone{false};
  std::thread sending([&] { EXPECT_EQ(box.next(gone)->seq(), 1); });
  box.put(chunk(1, 1));
  sending.join();
  std::thread waiting([&] { EXPECT_EQ(box.next(gone), nullptr); });
  gone = true;
  box.wake();
  waiting.join();
  EXPECT_FALSE(box.drained(steady_clock::now() + milliseconds(1), never));
  EXPECT_FALSE(box.drained(steady_clock::now() + std::chrono::hours(1), [] { return true; }));
  gone = false;
  box.close();
  EXPECT_EQ(box.next(gone), nullptr);
}

}  // namespace
}  // namespace auxilium::internal
