#include <gtest/gtest.h>

#include "auxilium/errors.h"
#include "episode.h"
#include "packer.h"

namespace auxilium::internal {
namespace {

Choice choice(float seen, int version = 0) {
  Choice made;
  made.seen = {seen};
  made.index = 1;
  made.log_prob = -0.5;
  made.version = version;
  return made;
}

class EpisodeTest : public ::testing::Test {
 protected:
  // A step, as an agent takes it.
  std::int64_t step(float seen, int version = 0) {
    if (episode.waiting() > 0) episode.saw({seen});
    return episode.add(choice(seen, version));
  }

  std::mutex lock;
  Episode episode{5, "e", lock};
};

TEST_F(EpisodeTest, RewardsComeLateAndInAnyOrder) {
  for (int i = 0; i < 3; ++i) step(static_cast<float>(i));
  EXPECT_EQ(episode.ready(false), 0);
  episode.put_reward(1, 11);
  EXPECT_EQ(episode.ready(false), 0);
  episode.put_reward(0, 10);
  EXPECT_EQ(episode.ready(false), 2);
  episode.put_reward(0, 20);  // the last word counts
  const Rows rows = episode.take(2);
  EXPECT_EQ(rows.rewards, (std::vector<float>{20, 11}));
  EXPECT_EQ(*rows.following, std::vector<float>{2});
  EXPECT_FALSE(rows.terminated || rows.truncated);
  EXPECT_THROW(episode.put_reward(1, 0), RewardTooLate);
  episode.put_reward(2, 12);
  EXPECT_EQ(episode.ready(false), 0) << "nobody knows what came after it";
  episode.end(false, {3}, false);
  const Rows last = episode.take(episode.ready(false));
  EXPECT_EQ(last.start, 2);
  EXPECT_TRUE(last.truncated);
  EXPECT_EQ(*last.following, std::vector<float>{3});
}

TEST_F(EpisodeTest, WhatWasNotSaidIsNothing) {
  step(0);
  step(1);
  EXPECT_EQ(episode.ready(true), 1) << "the last step is not complete";
  episode.end(true, {}, true);
  EXPECT_EQ(episode.ready(false), 0) << "rewards follow";
  EXPECT_EQ(episode.ready(true), 2);
  const Rows rows = episode.take(2);
  EXPECT_EQ(rows.rewards, (std::vector<float>{0, 0}));
  EXPECT_TRUE(rows.terminated);
  EXPECT_FALSE(rows.following.has_value());
}

TEST_F(EpisodeTest, AChunkHasASpanForEachVersion) {
  step(0, 1);
  step(1, 1);
  step(2, 2);
  episode.end(true, {}, false);
  const auto chunk = pack(9, {episode.take(3)}, Space::discrete(2), 0);
  ASSERT_EQ(chunk.spans_size(), 2);
  EXPECT_EQ(chunk.count(), 3);
  EXPECT_EQ(chunk.spans(0).count(), 2);
  EXPECT_TRUE(chunk.spans(0).has_following());
  EXPECT_FALSE(chunk.spans(0).terminated());
  EXPECT_EQ(chunk.spans(1).start(), 2);
  EXPECT_TRUE(chunk.spans(1).terminated());
  EXPECT_FALSE(chunk.spans(1).has_following());
  EXPECT_EQ(chunk.following().slabs(0).size(), sizeof(float));
  EXPECT_EQ(chunk.actions().slabs(0).size(), 3 * sizeof(std::int64_t));
  EXPECT_EQ(chunk.log_probs().size(), 3 * sizeof(float));
  EXPECT_TRUE(chunk.masks().empty());
}

}  // namespace
}  // namespace auxilium::internal
