#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "auxilium/errors.h"

namespace auxilium::internal {
namespace {

// Of SAC's squashed Gaussian; source: Stable-Baselines3's SquashedDiagGaussianDistribution.
constexpr float kEpsilon = 1e-6F;
const float kHalfLogTwoPi = static_cast<float>(0.5 * std::log(2 * 3.14159265358979323846));
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

bool legal(const std::vector<std::uint8_t>& mask, Eigen::Index choice) {
  return mask.empty() || mask[static_cast<std::size_t>(choice)] != 0;
}

Drawn numbers(std::vector<float> taken, std::vector<float> sent, double log_prob) {
  Drawn drawn;
  drawn.taken = std::move(taken);
  drawn.sent = std::move(sent);
  drawn.log_prob = log_prob;
  return drawn;
}

}  // namespace

Sampler::Sampler(Network network, Space observation, Space action, std::optional<double> noise)
    : network_(std::move(network)), action_(std::move(action)), noise_(noise.value_or(network_.noise())) {
  const auto fit = [](const char* what, Eigen::Index has, std::int64_t ours) {
    if (has != ours) {
      throw Refused("the policy has " + std::to_string(has) + " " + what + "; this agent has " + std::to_string(ours));
    }
  };
  fit("numbers in an observation", network_.inputs(), static_cast<std::int64_t>(observation.size()));
  const bool discrete = action_.kind == Space::Kind::kDiscrete;
  if (discrete != (network_.finish() == Finish::kChoose)) {
    throw Refused(discrete ? "the policy's actions are numbers; this agent chooses" : "the policy chooses; this agent's actions are numbers");
  }
  fit(discrete ? "choices" : "numbers in an action", network_.outputs(),
      discrete ? action_.n : static_cast<std::int64_t>(action_.size()));
}

Drawn Sampler::draw(const float* observation, const std::vector<std::uint8_t>& mask, SplitMix64& random) const {
  const Outputs outputs = network_(observation);
  switch (network_.distribution()) {
    case Distribution::kCategorical:
      return choice(outputs.scores, mask, random);
    case Distribution::kEpsilonGreedy: {
      if (random.uniform() >= network_.exploration_rate()) return greedy(outputs.scores, mask);
      std::vector<std::int64_t> choices;
      for (Eigen::Index i = 0; i < outputs.scores.size(); ++i) {
        if (legal(mask, i)) choices.push_back(i);
      }
      Drawn drawn;
      drawn.index = choices[static_cast<std::size_t>(random.uniform() * static_cast<double>(choices.size()))];
      drawn.log_prob = kNone;
      return drawn;
    }
    case Distribution::kGaussian:
    case Distribution::kSquashedGaussian:
      return gaussian(outputs, random);
    case Distribution::kNone:
      break;
  }
  return noisy(outputs.scores, random);
}

Drawn Sampler::best(const float* observation, const std::vector<std::uint8_t>& mask) const {
  const Outputs outputs = network_(observation);
  if (action_.kind == Space::Kind::kDiscrete) return greedy(outputs.scores, mask);
  const std::vector<float> sent = finished(outputs.scores);
  return numbers(sent, sent, kNone);
}

Drawn Sampler::greedy(const Eigen::VectorXf& scores, const std::vector<std::uint8_t>& mask) const {
  Drawn drawn;
  drawn.index = -1;
  drawn.log_prob = kNone;
  for (Eigen::Index i = 0; i < scores.size(); ++i) {
    if (legal(mask, i) && (drawn.index < 0 || scores[i] > scores[drawn.index])) drawn.index = i;
  }
  return drawn;
}

// The first choice whose cumulative weight exceeds a uniform share of the whole; the last legal one, where rounding
// leads past it.
Drawn Sampler::choice(const Eigen::VectorXf& scores, const std::vector<std::uint8_t>& mask, SplitMix64& random) const {
  double most = -std::numeric_limits<double>::infinity();
  for (Eigen::Index i = 0; i < scores.size(); ++i) {
    if (legal(mask, i)) most = std::max(most, static_cast<double>(scores[i]));
  }
  std::vector<double> weights(static_cast<std::size_t>(scores.size()), 0.0);
  double total = 0;
  for (Eigen::Index i = 0; i < scores.size(); ++i) {
    if (legal(mask, i)) total += weights[static_cast<std::size_t>(i)] = std::exp(static_cast<double>(scores[i]) - most);
  }
  Drawn drawn;
  double left = random.uniform() * total;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    left -= weights[i];
    drawn.index = static_cast<std::int64_t>(i);
    if (left < 0) break;
  }
  drawn.log_prob = static_cast<double>(scores[drawn.index]) - most - std::log(total);
  return drawn;
}

Drawn Sampler::gaussian(const Outputs& outputs, SplitMix64& random) const {
  const bool squashed = network_.distribution() == Distribution::kSquashedGaussian;
  const std::size_t size = action_.size();
  std::vector<float> taken(size);
  std::vector<float> sent(size);
  float log_prob = 0;
  for (std::size_t i = 0; i < size; ++i) {
    const auto noise = static_cast<float>(random.normal());
    const float log_std = outputs.log_std[static_cast<Eigen::Index>(i)];
    const float drawn = outputs.scores[static_cast<Eigen::Index>(i)] + std::exp(log_std) * noise;
    float each = -0.5F * noise * noise - log_std - kHalfLogTwoPi;
    if (squashed) {
      const float small = std::tanh(drawn);
      each -= std::log(1.0F - small * small + kEpsilon);
      taken[i] = sent[i] = action_.low[i] + 0.5F * (small + 1.0F) * (action_.high[i] - action_.low[i]);
    } else {
      taken[i] = drawn;
      sent[i] = std::clamp(drawn, action_.low[i], action_.high[i]);
    }
    log_prob += each;
  }
  return numbers(std::move(taken), std::move(sent), log_prob);
}

Drawn Sampler::noisy(const Eigen::VectorXf& scores, SplitMix64& random) const {
  std::vector<float> sent = finished(scores);
  if (noise_ > 0) {
    for (std::size_t i = 0; i < sent.size(); ++i) {
      const float scale = 0.5F * (action_.high[i] - action_.low[i]) * static_cast<float>(noise_);
      sent[i] = std::clamp(sent[i] + scale * static_cast<float>(random.normal()), action_.low[i], action_.high[i]);
    }
  }
  return numbers(sent, sent, kNone);
}

std::vector<float> Sampler::finished(const Eigen::VectorXf& scores) const {
  std::vector<float> values(static_cast<std::size_t>(scores.size()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float low = action_.low[i];
    const float high = action_.high[i];
    const float score = scores[static_cast<Eigen::Index>(i)];
    if (network_.finish() == Finish::kClip) {
      values[i] = std::clamp(score, low, high);
    } else {
      const float small = network_.finish() == Finish::kTanhUnscale ? std::tanh(score) : score;
      values[i] = low + 0.5F * (small + 1.0F) * (high - low);
    }
  }
  return values;
}

}  // namespace auxilium::internal
