// CartPole as Gymnasium's CartPole-v1 has it. Knows nothing of gRPC or of the protocol.
#pragma once

#include <array>
#include <cstdint>
#include <random>

namespace sim {

inline constexpr int kObservationSize = 4;
inline constexpr int kActions = 2;
inline constexpr int kMaxEpisodeSteps = 500;
inline constexpr double kPositionLimit = 2.4;
inline constexpr double kAngleLimit = 12 * 2 * 3.14159265358979323846 / 360;

using Observation = std::array<float, kObservationSize>;

struct StepResult {
  float reward;
  bool terminated;
  bool truncated;
};

class CartPole {
 public:
  // A random seed, until seed() is called.
  CartPole();

  // Restarts the random stream that the resets draw from.
  void seed(std::uint64_t seed);
  void reset();
  // Call only between reset() and the end of the episode; `action` is 0 (push left) or 1 (push right).
  StepResult step(std::int64_t action);

  Observation observation() const;
  // True between reset() and the end of the episode.
  bool running() const { return running_; }

 private:
  double uniform(double low, double high);
  void integrate(double force);

  std::mt19937_64 random_;
  double x_ = 0;
  double x_speed_ = 0;
  double angle_ = 0;
  double angle_speed_ = 0;
  int steps_ = 0;
  bool running_ = false;
};

}  // namespace sim
