#include "network.h"

#include <cmath>
#include <map>

#include "auxilium/errors.h"
#include "json.h"
#include "safetensors.h"

namespace auxilium::internal {
namespace {

using google::protobuf::Struct;
using Tensors = std::map<std::string, Tensor>;

// Of SAC; source: Stable-Baselines3's sac/policies.py.
constexpr float kLeastLogStd = -20.0F;
constexpr float kMostLogStd = 2.0F;

template <typename Value>
Value chosen(const std::map<std::string, Value>& known, const std::string& name, const std::string& what) {
  const auto found = known.find(name);
  if (found == known.end()) throw Refused("the policy has the " + what + " '" + name + "', which is not known here");
  return found->second;
}

const std::map<std::string, Activation> kActivations{
    {"none", Activation::kNone}, {"tanh", Activation::kTanh},           {"relu", Activation::kRelu},
    {"elu", Activation::kElu},   {"leaky_relu", Activation::kLeakyRelu}, {"silu", Activation::kSilu},
    {"gelu", Activation::kGelu}};
const std::map<std::string, Finish> kFinishes{{"choose", Finish::kChoose},
                                              {"clip", Finish::kClip},
                                              {"unscale", Finish::kUnscale},
                                              {"tanh_unscale", Finish::kTanhUnscale}};
const std::map<std::string, Distribution> kDistributions{{"none", Distribution::kNone},
                                                         {"categorical", Distribution::kCategorical},
                                                         {"epsilon_greedy", Distribution::kEpsilonGreedy},
                                                         {"gaussian", Distribution::kGaussian},
                                                         {"squashed_gaussian", Distribution::kSquashedGaussian}};

const Tensor& tensor(const Tensors& tensors, const std::string& name, std::size_t dimensions) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) throw Refused("the weights lack the tensor '" + name + "'");
  if (found->second.shape.size() != dimensions) throw Refused("tensor '" + name + "' has another shape");
  return found->second;
}

Eigen::VectorXf vector_of(const Tensors& tensors, const std::string& name) {
  const Tensor& found = tensor(tensors, name, 1);
  return Eigen::Map<const Eigen::VectorXf>(found.values.data(), found.shape[0]);
}

Layer layer_of(const Tensors& tensors, const Struct& told) {
  Layer layer;
  const Tensor& weight = tensor(tensors, text_of(told, "weight"), 2);
  layer.weight = Eigen::Map<const decltype(layer.weight)>(weight.values.data(), weight.shape[0], weight.shape[1]);
  layer.bias = vector_of(tensors, text_of(told, "bias"));
  if (layer.bias.size() != layer.weight.rows()) throw Refused("'" + text_of(told, "bias") + "' fits no weight");
  const std::string name = text_of(told, "activation");
  layer.activation = chosen(kActivations, name.empty() ? "none" : name, "activation");
  return layer;
}

void activate(Eigen::VectorXf& values, Activation activation) {
  const auto each = [&values](auto function) { values = values.unaryExpr(function); };
  switch (activation) {
    case Activation::kNone:
      return;
    case Activation::kTanh:
      return each([](float x) { return std::tanh(x); });
    case Activation::kRelu:
      return each([](float x) { return x > 0 ? x : 0.0F; });
    case Activation::kElu:
      return each([](float x) { return x > 0 ? x : std::expm1(x); });
    case Activation::kLeakyRelu:
      return each([](float x) { return x > 0 ? x : 0.01F * x; });
    case Activation::kSilu:
      return each([](float x) { return x / (1.0F + std::exp(-x)); });
    case Activation::kGelu:
      return each([](float x) { return 0.5F * x * (1.0F + std::erf(x * 0.70710678F)); });
  }
}

}  // namespace

Network::Network(const std::string& description, const std::string& weights) {
  const Struct told = parse_json(description, "policy.json");
  const auto* network = find(told, "network");
  if (network == nullptr) {
    throw Refused(
        "the policy is more than linear layers (pictures, a Dict, normalisation, stacked frames, memory), or was made "
        "by an earlier release; this library does not compute it");
  }
  const Struct& parts = network->struct_value();
  if (text_of(parts, "features") != "flat") throw Refused("the policy does not see a Box of numbers");
  finish_ = chosen(kFinishes, text_of(parts, "finish"), "kind of action");
  distribution_ = chosen(kDistributions, text_of(told, "distribution"), "distribution");
  noise_ = number_of(told, "noise", noise_);
  exploration_rate_ = number_of(told, "exploration_rate", 0);
  quantiles_ = static_cast<Eigen::Index>(number_of(parts, "quantiles", 0));

  const Tensors tensors = parse_safetensors(weights);
  const auto* layers = find(parts, "layers");
  if (layers != nullptr) {
    for (const auto& one : layers->list_value().values()) {
      layers_.push_back(layer_of(tensors, one.struct_value()));
      const std::size_t count = layers_.size();
      if (count > 1 && layers_[count - 1].weight.cols() != layers_[count - 2].weight.rows()) {
        throw Refused("the layers of the policy do not fit each other");
      }
    }
  }
  if (layers_.empty()) throw Refused("the policy has no layers");
  if (quantiles_ < 0 || (quantiles_ > 0 && layers_.back().weight.rows() % quantiles_ != 0)) {
    throw Refused("the policy's quantiles do not fit its last layer");
  }
  if (distribution_ == Distribution::kGaussian) log_std_ = vector_of(tensors, text_of(parts, "log_std"));
  if (distribution_ == Distribution::kSquashedGaussian) {
    const auto* spread = find(parts, "log_std");
    if (spread == nullptr) throw Refused("the policy has no log_std");
    spread_ = layer_of(tensors, spread->struct_value());
    if (spread_->weight.cols() != layers_.back().weight.cols()) throw Refused("the policy's log_std does not fit");
  }
  const Eigen::Index spread = spread_ ? spread_->weight.rows() : log_std_.size();
  if (spread > 0 && spread != outputs()) throw Refused("the policy's log_std does not fit its means");
}

Eigen::Index Network::outputs() const {
  const Eigen::Index rows = layers_.back().weight.rows();
  return quantiles_ > 0 ? rows / quantiles_ : rows;
}

Outputs Network::operator()(const float* observation) const {
  Eigen::VectorXf values = Eigen::Map<const Eigen::VectorXf>(observation, inputs());
  Outputs outputs;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (i + 1 == layers_.size() && spread_) {
      outputs.log_std = (spread_->weight * values + spread_->bias).cwiseMax(kLeastLogStd).cwiseMin(kMostLogStd);
    }
    Eigen::VectorXf next = layer.bias;
    next.noalias() += layer.weight * values;
    activate(next, layer.activation);
    values = std::move(next);
  }
  if (quantiles_ > 0) {
    const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> rows(
        values.data(), quantiles_, this->outputs());
    outputs.scores = rows.colwise().mean();
  } else {
    outputs.scores = std::move(values);
  }
  if (log_std_.size() > 0) outputs.log_std = log_std_;
  return outputs;
}

}  // namespace auxilium::internal
