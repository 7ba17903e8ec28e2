// Many CartPoles behind the protocol's Reset and Step.
#pragma once

#include <cstdint>
#include <vector>

#include "cartpole.h"
#include "environment.h"

namespace sim {

class CartPoleLanes : public Environment {
 public:
  explicit CartPoleLanes(std::uint32_t lanes);

  void describe(v2::Contract& contract) const override;
  void begin(const v2::Contract& agreed) override;
  void reset(const v2::Reset& request, v2::FromEnv& answer) override;
  void step(const v2::Step& request, v2::FromEnv& answer) override;

 private:
  using Named = google::protobuf::RepeatedField<std::uint32_t>;

  // Each puts the error into `answer` and returns false where the request is wrong.
  bool choose(const Named& named, v2::FromEnv& answer);
  bool read_actions(const v2::Step& request, v2::FromEnv& answer);
  bool all_running(v2::FromEnv& answer) const;

  void step_lane(std::uint32_t lane, std::int64_t action, v2::Transition& transition);

  std::vector<CartPole> lanes_;
  bool final_obs_ = true;
  // Scratch of one request, kept so that the hot path need not allocate.
  std::vector<std::uint32_t> chosen_;
  std::vector<char> seen_;
  std::vector<std::int64_t> actions_;
};

}  // namespace sim
