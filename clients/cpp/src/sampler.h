// Actions for one observation at a time, drawn as agents in Python draw them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "auxilium/space.h"
#include "network.h"
#include "splitmix64.h"

namespace auxilium::internal {

struct Drawn {
  std::int64_t index = 0;    // of a choice, counted from 0
  std::vector<float> taken;  // as it is learned from: of a Gaussian before it is clipped
  std::vector<float> sent;   // as the environment takes it
  double log_prob = 0;       // NaN where the policy has no probabilities
};

class Sampler {
 public:
  // Throws Refused where the network's numbers are not those of the spaces.
  // `noise`: in halves of the range of a Box; none: as the policy says.
  Sampler(Network network, Space observation, Space action, std::optional<double> noise);

  // `mask`: one for each choice, not 0: legal; empty: all are. At least one is legal.
  Drawn draw(const float* observation, const std::vector<std::uint8_t>& mask, SplitMix64& random) const;
  // What the policy thinks best.
  Drawn best(const float* observation, const std::vector<std::uint8_t>& mask) const;

 private:
  Drawn choice(const Eigen::VectorXf& scores, const std::vector<std::uint8_t>& mask, SplitMix64& random) const;
  Drawn greedy(const Eigen::VectorXf& scores, const std::vector<std::uint8_t>& mask) const;
  Drawn gaussian(const Outputs& outputs, SplitMix64& random) const;
  Drawn noisy(const Eigen::VectorXf& scores, SplitMix64& random) const;
  std::vector<float> finished(const Eigen::VectorXf& scores) const;

  Network network_;
  Space action_;
  double noise_;
};

}  // namespace auxilium::internal
