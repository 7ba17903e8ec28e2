// What an agent experiences, until it is sent.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace auxilium::internal {

// An action that was chosen, and may be taken.
struct Choice {
  std::vector<float> seen;
  std::vector<std::uint8_t> mask;
  std::int64_t index = 0;
  std::vector<float> taken;
  double log_prob = 0;
  int version = 0;
  std::shared_ptr<class Episode> episode;  // null: nobody is told of it
  mutable bool added = false;  // to its trajectory
};

// Steps of one episode on their way out.
struct Rows {
  std::int64_t episode = 0;
  std::int64_t start = 0;
  std::vector<float> observations;  // one after another
  std::vector<std::int64_t> indices;
  std::vector<float> taken;
  std::vector<float> rewards;
  std::vector<float> log_probs;
  std::vector<std::uint8_t> masks;  // one after another; `masked` says whether there are any
  std::vector<int> versions;
  bool terminated = false;
  bool truncated = false;
  std::optional<std::vector<float>> following;  // seen after the last step
};

// Not locked: whoever adds or takes away holds the agent's lock.
class Episode {
 public:
  Episode(std::int64_t number, std::string name, std::mutex& lock) : lock(lock), number_(number), name_(std::move(name)) {}

  // Gives the step's number.
  std::int64_t add(const Choice& choice);
  // Throws RewardTooLate.
  void put_reward(std::int64_t step, float reward);
  // What came after the last step, before the next is chosen.
  void saw(const std::vector<float>& observation) { next_ = observation; }
  void end(bool terminated, const std::vector<float>& last, bool rewards_follow);

  bool saw_next() const { return next_.has_value(); }
  bool over() const { return terminated_ || truncated_; }
  std::int64_t waiting() const { return static_cast<std::int64_t>(steps_.size()); }
  // Steps that can be sent: their rewards are known, and what was seen after them. `force`: rewards that are not, are 0.
  std::int64_t ready(bool force) const;
  // The oldest `count` steps, which are no longer here then.
  Rows take(std::int64_t count);
  const std::string& name() const { return name_; }

  std::mutex& lock;

 private:
  struct Taken {
    std::vector<float> seen;
    std::vector<std::uint8_t> mask;
    std::int64_t index;
    std::vector<float> taken;
    float log_prob;
    int version;
    std::optional<float> reward;
  };

  std::int64_t number_;
  std::string name_;
  std::int64_t base_ = 0;  // steps that were sent
  std::vector<Taken> steps_;
  std::optional<std::vector<float>> next_;
  bool terminated_ = false;
  bool truncated_ = false;
  bool rewards_follow_ = false;
};

}  // namespace auxilium::internal
