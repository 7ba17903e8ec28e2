#include "cartpole_lanes.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>

namespace sim {
namespace {

// The wire is little endian and so is every machine this runs on; slabs are copied as they lie.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "a big-endian machine must swap the slabs");

template <typename T>
void append(std::string& slab, const T& value) {
  slab.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void describe_observation(v2::Space& space) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float high[] = {static_cast<float>(2 * kPositionLimit), kInfinity, static_cast<float>(2 * kAngleLimit),
                        kInfinity};
  space.add_shape(kObservationSize);
  space.set_dtype(v2::DTYPE_FLOAT32);
  space.set_encoding(v2::ENCODING_RAW);
  for (const float bound : high) {
    append(*space.mutable_box()->mutable_low(), -bound);
    append(*space.mutable_box()->mutable_high(), bound);
  }
  for (const char* name : {"x", "x_speed", "angle", "angle_speed"}) space.add_names(name);
}

void describe_action(v2::Space& space) {
  space.set_dtype(v2::DTYPE_INT64);
  space.set_encoding(v2::ENCODING_RAW);
  space.mutable_discrete()->set_n(kActions);
  space.mutable_discrete()->set_start(0);
}

void reserve(v2::Transition& transition, std::size_t rows) {
  transition.add_obs()->reserve(rows * sizeof(Observation));
  transition.mutable_reward()->reserve(rows * sizeof(float));
}

}  // namespace

CartPoleLanes::CartPoleLanes(std::uint32_t lanes) : lanes_(lanes), seen_(lanes) {}

void CartPoleLanes::describe(v2::Contract& contract) const {
  for (const char* name : {"final_obs", "partial_reset"}) contract.add_capabilities(name);
  contract.set_component("cartpole-cpp");
  contract.set_version("1.0.0");
  contract.set_language("c++");
  contract.set_env_id("CartPole-v1");
  describe_observation(*contract.mutable_observation());
  describe_action(*contract.mutable_action());
  contract.set_lanes(static_cast<std::uint32_t>(lanes_.size()));
  contract.set_autoreset(v2::AUTORESET_MODE_SAME_STEP);
  contract.set_mask_len(0);
  contract.set_max_episode_steps(kMaxEpisodeSteps);
  contract.set_deterministic(true);
}

// To take more than was agreed harms nobody; to send more might. So only final_obs is held to what was agreed.
void CartPoleLanes::begin(const v2::Contract& agreed) {
  for (CartPole& lane : lanes_) lane = CartPole();
  const auto& names = agreed.capabilities();
  final_obs_ = std::find(names.begin(), names.end(), "final_obs") != names.end();
}

bool CartPoleLanes::choose(const Named& named, v2::FromEnv& answer) {
  chosen_.assign(named.begin(), named.end());
  if (chosen_.empty()) {
    chosen_.resize(lanes_.size());
    std::iota(chosen_.begin(), chosen_.end(), 0U);
    return true;
  }
  std::fill(seen_.begin(), seen_.end(), 0);
  for (const std::uint32_t lane : chosen_) {
    const bool known = lane < lanes_.size();
    if (known && !seen_[lane]) {
      seen_[lane] = 1;
      continue;
    }
    const std::string expected = known ? "each lane once" : "0.." + std::to_string(lanes_.size() - 1);
    set_error(answer, v2::ERROR_CODE_INVALID_REQUEST, "lanes: given " + std::to_string(lane) + (known ? " twice" : "") +
                                           ", expected " + expected)
        .add_lanes(lane);
    return false;
  }
  return true;
}

void CartPoleLanes::reset(const v2::Reset& request, v2::FromEnv& answer) {
  if (!choose(request.lanes(), answer)) return;
  const auto seeds = static_cast<std::size_t>(request.seeds_size());
  if (seeds != 0 && seeds != chosen_.size()) {
    set_error(answer, v2::ERROR_CODE_INVALID_REQUEST, "seeds: given " + std::to_string(seeds) + ", expected none or " +
                                           std::to_string(chosen_.size()) + ", one for each lane");
    return;
  }
  if (!request.options_json().empty() && request.options_json() != "{}") {
    set_error(answer, v2::ERROR_CODE_UNSUPPORTED, "options_json: given " +
                                                      std::to_string(request.options_json().size()) +
                                                      " bytes, expected none: this simulator has no options");
    return;
  }
  v2::Transition& transition = *answer.mutable_transition();
  reserve(transition, chosen_.size());
  for (std::size_t row = 0; row < chosen_.size(); ++row) {
    CartPole& lane = lanes_[chosen_[row]];
    if (seeds != 0) lane.seed(request.seeds(static_cast<int>(row)));
    lane.reset();
    append(*transition.mutable_obs(0), lane.observation());
  }
  transition.mutable_reward()->assign(chosen_.size() * sizeof(float), '\0');
  transition.mutable_terminated()->assign(chosen_.size(), '\0');
  transition.mutable_truncated()->assign(chosen_.size(), '\0');
  *transition.mutable_lanes() = request.lanes();
}

bool CartPoleLanes::read_actions(const v2::Step& request, v2::FromEnv& answer) {
  if (request.action_size() != 1) {
    set_error(answer, v2::ERROR_CODE_INVALID_REQUEST,
              "action: given " + std::to_string(request.action_size()) + " slabs, expected 1");
    return false;
  }
  const std::string& slab = request.action(0);
  const std::size_t expected = chosen_.size() * sizeof(std::int64_t);
  if (slab.size() != expected) {
    set_error(answer, v2::ERROR_CODE_INVALID_REQUEST,
              "action: given " + std::to_string(slab.size()) + " bytes, expected " + std::to_string(expected) +
                  " (int64 for each of " + std::to_string(chosen_.size()) + " lanes)");
    return false;
  }
  actions_.resize(chosen_.size());
  std::memcpy(actions_.data(), slab.data(), expected);
  for (std::size_t row = 0; row < chosen_.size(); ++row) {
    if (actions_[row] >= 0 && actions_[row] < kActions) continue;
    set_error(answer, v2::ERROR_CODE_INVALID_ACTION,
              "action: given " + std::to_string(actions_[row]) + " for lane " + std::to_string(chosen_[row]) +
                  ", expected 0.." + std::to_string(kActions - 1))
        .add_lanes(chosen_[row]);
    return false;
  }
  return true;
}

bool CartPoleLanes::all_running(v2::FromEnv& answer) const {
  for (const std::uint32_t lane : chosen_) {
    if (lanes_[lane].running()) continue;
    set_error(answer, v2::ERROR_CODE_NOT_READY,
              "lanes: given Step for lane " + std::to_string(lane) + ", expected a Reset of it first")
        .add_lanes(lane);
    return false;
  }
  return true;
}

void CartPoleLanes::step_lane(std::uint32_t lane, std::int64_t action, v2::Transition& transition) {
  CartPole& cartpole = lanes_[lane];
  const StepResult result = cartpole.step(action);
  append(*transition.mutable_reward(), result.reward);
  transition.mutable_terminated()->push_back(result.terminated ? 1 : 0);
  transition.mutable_truncated()->push_back(result.truncated ? 1 : 0);
  if (!cartpole.running()) {
    if (final_obs_) {
      if (transition.final_obs_size() == 0) transition.add_final_obs();
      append(*transition.mutable_final_obs(0), cartpole.observation());
    }
    cartpole.reset();
  }
  append(*transition.mutable_obs(0), cartpole.observation());
}

void CartPoleLanes::step(const v2::Step& request, v2::FromEnv& answer) {
  if (!choose(request.lanes(), answer) || !all_running(answer) || !read_actions(request, answer)) return;
  for (const std::uint32_t leaf : request.want()) {
    if (leaf == 0) continue;
    set_error(answer, v2::ERROR_CODE_INVALID_REQUEST,
              "want: given " + std::to_string(leaf) + ", expected 0, the only leaf");
    return;
  }
  if (request.want_render()) {
    set_error(answer, v2::ERROR_CODE_UNSUPPORTED, "want_render: given true, expected false: nothing is drawn here");
    return;
  }
  v2::Transition& transition = *answer.mutable_transition();
  reserve(transition, chosen_.size());
  for (std::size_t row = 0; row < chosen_.size(); ++row) step_lane(chosen_[row], actions_[row], transition);
  *transition.mutable_lanes() = request.lanes();
}

}  // namespace sim
