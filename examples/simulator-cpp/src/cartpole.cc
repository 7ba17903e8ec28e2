#include "cartpole.h"

#include <cmath>

namespace sim {
namespace {

constexpr double kGravity = 9.8;
constexpr double kPoleMass = 0.1;
constexpr double kTotalMass = kPoleMass + 1.0;
constexpr double kHalfPole = 0.5;
constexpr double kPoleMassLength = kPoleMass * kHalfPole;
constexpr double kForce = 10.0;
constexpr double kSecondsPerStep = 0.02;
constexpr double kStartSpread = 0.05;

}  // namespace

CartPole::CartPole() {
  std::random_device device;
  seed((static_cast<std::uint64_t>(device()) << 32) | device());
}

void CartPole::seed(std::uint64_t seed) { random_.seed(seed); }

// Not std::uniform_real_distribution: each standard library has its own, and a seed should mean the same everywhere.
double CartPole::uniform(double low, double high) {
  const double unit = static_cast<double>(random_() >> 11) * 0x1.0p-53;
  return low + (high - low) * unit;
}

void CartPole::reset() {
  x_ = uniform(-kStartSpread, kStartSpread);
  x_speed_ = uniform(-kStartSpread, kStartSpread);
  angle_ = uniform(-kStartSpread, kStartSpread);
  angle_speed_ = uniform(-kStartSpread, kStartSpread);
  steps_ = 0;
  running_ = true;
}

// Explicit Euler: positions move by the speeds from before this step, as in Gymnasium. The brackets give its order
// of operations too: a pole that stands upright makes the last bit of a double visible after some hundred steps.
void CartPole::integrate(double force) {
  const double cosine = std::cos(angle_);
  const double sine = std::sin(angle_);
  const double pushed = (force + kPoleMassLength * (angle_speed_ * angle_speed_) * sine) / kTotalMass;
  const double angle_acceleration =
      (kGravity * sine - cosine * pushed) / (kHalfPole * (4.0 / 3.0 - kPoleMass * (cosine * cosine) / kTotalMass));
  const double acceleration = pushed - kPoleMassLength * angle_acceleration * cosine / kTotalMass;

  x_ += kSecondsPerStep * x_speed_;
  x_speed_ += kSecondsPerStep * acceleration;
  angle_ += kSecondsPerStep * angle_speed_;
  angle_speed_ += kSecondsPerStep * angle_acceleration;
}

StepResult CartPole::step(std::int64_t action) {
  integrate(action == 1 ? kForce : -kForce);
  ++steps_;
  StepResult result;
  result.reward = 1.0F;
  result.terminated = std::abs(x_) > kPositionLimit || std::abs(angle_) > kAngleLimit;
  result.truncated = steps_ >= kMaxEpisodeSteps;
  running_ = !result.terminated && !result.truncated;
  return result;
}

Observation CartPole::observation() const {
  return {static_cast<float>(x_), static_cast<float>(x_speed_), static_cast<float>(angle_),
          static_cast<float>(angle_speed_)};
}

}  // namespace sim
