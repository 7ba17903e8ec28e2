#include "sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "auxilium/errors.h"
#include "files.h"

namespace auxilium::internal {
namespace {

using Indices = std::vector<std::int64_t>;

const Space kSeen = Space::box(-1, 1, {1});
const float kRow[] = {0};

Sampler sampler(const std::string& told, const std::vector<float>& bias, const Space& action, double noise = 0.1) {
  return Sampler(Network(told, bias_only(bias)), kSeen, action, noise);
}

Indices drawn(const Sampler& policy, const std::vector<std::uint8_t>& mask, int count) {
  SplitMix64 random(7);
  Indices found;
  for (int i = 0; i < count; ++i) found.push_back(policy.draw(kRow, mask, random).index);
  return found;
}

// Figures of the reference implementation, and of the agent in Python for the seed 7.
TEST(SplitMix64, DrawsWhatOthersDraw) {
  SplitMix64 reference(1234567);
  EXPECT_EQ(reference.word(), 6457827717110365317U);
  EXPECT_EQ(reference.word(), 3203168211198807973U);
  EXPECT_EQ(reference.word(), 9817491932198370423U);
  SplitMix64 uniform(7);
  EXPECT_EQ(uniform.uniform(), 0.3898297483912715);
  EXPECT_EQ(uniform.uniform(), 0.01678829452815611);
  SplitMix64 normal(7);
  EXPECT_NEAR(normal.normal(), 0.9884743323187353, 1e-15);
  EXPECT_NEAR(normal.normal(), -1.8642558067312274, 1e-15);
}

TEST(Sampler, ChoosesWhatTheAgentInPythonChooses) {
  const Sampler policy = sampler(description("categorical", "choose"), {0.1F, -1.2F, 0.7F, 0.0F}, Space::discrete(4));
  EXPECT_EQ(drawn(policy, {}, 16), (Indices{2, 0, 3, 2, 2, 0, 2, 2, 0, 2, 0, 3, 3, 3, 3, 2}));
  EXPECT_EQ(drawn(policy, {1, 0, 0, 1}, 16), (Indices{0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3}));
  SplitMix64 random(7);
  EXPECT_NEAR(policy.draw(kRow, {}, random).log_prob, -0.786166, 1e-6);
  EXPECT_NEAR(policy.draw(kRow, {1, 0, 0, 1}, random).log_prob, -0.644397, 1e-6);
  EXPECT_EQ(policy.best(kRow, {}).index, 2);
  EXPECT_EQ(policy.best(kRow, {1, 1, 0, 1}).index, 0);
}

TEST(Sampler, ExploresAsTheLearnerSays) {
  const auto epsilon = [](const char* rate) {
    std::string told = description("epsilon_greedy", "choose");
    told.insert(1, std::string(R"("exploration_rate":)") + rate + ",");
    return sampler(told, {0, 1, 2}, Space::discrete(3));
  };
  EXPECT_EQ(drawn(epsilon("0"), {}, 4), (Indices{2, 2, 2, 2}));
  EXPECT_EQ(drawn(epsilon("0"), {1, 1, 0}, 2), (Indices{1, 1}));
  const Indices all = drawn(epsilon("1"), {1, 0, 1}, 1000);
  EXPECT_EQ(std::count(all.begin(), all.end(), 1), 0);
  EXPECT_NEAR(static_cast<double>(std::count(all.begin(), all.end(), 0)), 500, 80);
}

TEST(Sampler, NumbersStayWithinTheirBox) {
  const Space box = Space::box({-1, 0}, {3, 0.5F});
  const std::string gaussian = description("gaussian", "clip", R"(,"log_std":"b")");
  const Sampler policy = sampler(gaussian, {0.3F, 0.2F}, box);
  SplitMix64 random(7);
  const Drawn one = policy.draw(kRow, {}, random);
  EXPECT_NEAR(one.taken[0], 0.3 + std::exp(0.3) * 0.9884743323, 1e-5);
  EXPECT_EQ(one.sent[1], 0.0F) << "clipped; what was drawn is learned from";
  EXPECT_LT(one.taken[1], 0.0F);
  EXPECT_EQ(policy.best(kRow, {}).sent, (std::vector<float>{0.3F, 0.2F}));

  const Sampler plain = sampler(description("none", "unscale"), {0.5F, -2}, box, 0);
  EXPECT_EQ(plain.draw(kRow, {}, random).sent[0], 2.0F);
  const Sampler squashed = sampler(description("none", "tanh_unscale"), {0, 100}, box, 5);
  EXPECT_EQ(squashed.best(kRow, {}).sent, (std::vector<float>{1, 0.5F}));
  for (int i = 0; i < 100; ++i) {
    const Drawn noisy = squashed.draw(kRow, {}, random);
    EXPECT_TRUE(noisy.sent[0] >= -1 && noisy.sent[0] <= 3 && noisy.sent[1] >= 0 && noisy.sent[1] <= 0.5F);
    EXPECT_TRUE(std::isnan(noisy.log_prob));
  }
}

TEST(Sampler, IsRefusedForOtherSpaces) {
  const std::string told = description("categorical", "choose");
  EXPECT_THROW(sampler(told, {0, 1}, Space::discrete(3)), Refused);
  EXPECT_THROW(sampler(told, {0, 1}, Space::box(0, 1, {2})), Refused);
  EXPECT_THROW(sampler(description("none", "unscale"), {0, 1}, Space::discrete(2)), Refused);
  EXPECT_THROW(Sampler(Network(told, bias_only({0, 1})), Space::box(0, 1, {2}), Space::discrete(2), 0), Refused);
}

}  // namespace
}  // namespace auxilium::internal
