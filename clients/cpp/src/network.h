// A policy that is nothing but linear layers: what `network` in its policy.json says, with the weights of a version.
#pragma once

#include <Eigen/Dense>
#include <optional>
#include <string>
#include <vector>

namespace auxilium::internal {

enum class Activation { kNone, kTanh, kRelu, kElu, kLeakyRelu, kSilu, kGelu };
enum class Finish { kChoose, kClip, kUnscale, kTanhUnscale };
enum class Distribution { kNone, kCategorical, kEpsilonGreedy, kGaussian, kSquashedGaussian };

struct Layer {
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> weight;
  Eigen::VectorXf bias;
  Activation activation = Activation::kNone;
};

// What comes out for one observation.
struct Outputs {
  Eigen::VectorXf scores;   // of choices, or means
  Eigen::VectorXf log_std;  // of Gaussians
};

class Network {
 public:
  // Throws Refused for a policy that is none of these, or weights that do not fit.
  Network(const std::string& description, const std::string& weights);

  // For `inputs()` numbers.
  Outputs operator()(const float* observation) const;

  Eigen::Index inputs() const { return layers_.front().weight.cols(); }
  // Choices, or numbers of an action.
  Eigen::Index outputs() const;
  Finish finish() const { return finish_; }
  Distribution distribution() const { return distribution_; }
  // Of the run, on actions that have no noise of their own.
  double noise() const { return noise_; }
  double exploration_rate() const { return exploration_rate_; }

 private:
  std::vector<Layer> layers_;
  std::optional<Layer> spread_;  // of a squashed Gaussian: takes what the last layer takes
  Eigen::VectorXf log_std_;
  Eigen::Index quantiles_ = 0;
  Finish finish_ = Finish::kChoose;
  Distribution distribution_ = Distribution::kNone;
  double exploration_rate_ = 0;
  double noise_ = 0.1;
};

}  // namespace auxilium::internal
