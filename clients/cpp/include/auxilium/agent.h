/// \file
/// An agent inside of a system: it acts in this process and lets a server learn.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "auxilium/errors.h"
#include "auxilium/space.h"

namespace auxilium {

namespace internal {
class Episode;
struct Choice;
}  // namespace internal

/// Seconds, with fractions.
using Seconds = std::chrono::duration<double>;

/// How an agent acts, learns and sends.
struct AgentConfig {
  std::string address = "127.0.0.1:50051";  ///< Of the server, `host:port`.
  std::string run_id;                       ///< Of the run that it joins; empty: that of `experiment_id`.
  std::string experiment_id = "agents";     ///< Names the run that agents share; the first one starts it.
  std::string agent_id;                     ///< Unique within the run; empty: the machine's name.
  std::string algorithm = "ppo";            ///< Of the run, where this agent starts it.
  std::int64_t total_timesteps = 1'000'000;  ///< Likewise.
  std::string hyperparameters = "{}";       ///< Likewise: a JSON object, by Stable-Baselines3's names.
  std::string policy_name;                  ///< Likewise: whose versions it publishes; empty: the run's id.
  int agents = 1;                           ///< Likewise: how many take part (`n_steps` x `agents` is a rollout).
  bool synchronous = false;                 ///< Likewise: act `n_steps` with one version, then wait for the next.
  std::optional<int> max_staleness;         ///< Likewise: versions that a step may be behind.
  std::string buffer;                       ///< Of the run's replay buffers; empty: its own, whose steps count.
  std::optional<std::int64_t> seed;         ///< Of the run and of this agent's random numbers; none: drawn.
  bool masked = false;                      ///< Whether (discrete) actions have masks.
  bool explore = true;                      ///< False: the best action is taken, and nothing is sent.
  std::optional<double> noise;              ///< Of TD3 and DDPG, in halves of the action's range; none: the run's, or 0.1.
  int chunk_steps = 512;                    ///< What was experienced is sent after so many steps,
  std::int64_t chunk_bytes = 2 << 20;       ///< or so many bytes (never more than the server accepts),
  Seconds chunk_seconds{0.25};              ///< or so long; 0: only when there are so many, or by `flush`.
  std::int64_t queue_steps = 100'000;       ///< That may wait to be stored; beyond them acting waits, and says so.
  Seconds join_seconds{60};                 ///< For a server that takes the agent in, and the first version.
  Seconds call_seconds{10};                 ///< Deadline of each call that has one answer.
  /// Takes what the agent has to say; none: it goes to the standard error output.
  std::function<void(const std::string&)> log;
};

/// An action that was chosen. It counts when it is added to a trajectory.
struct Action {
  std::int64_t index = 0;      ///< Of a Discrete space, `start` included.
  std::vector<float> values;   ///< Of a Box, as the environment takes them.
  double log_prob = 0;         ///< NaN where the policy has no probabilities.
  int version = -1;            ///< Of the policy that chose it.

  std::shared_ptr<const internal::Choice> choice;  ///< The agent's own.
};

/// A step of a trajectory; what it was worth may be said until it is sent.
struct Step {
  std::shared_ptr<internal::Episode> episode;  ///< The agent's own.
  std::int64_t number = 0;                     ///< Within the episode.
};

/// How a trajectory ended.
enum class End {
  kTerminated,  ///< It came to its end.
  kTruncated,   ///< It was cut off; what was seen last is worth something.
};

/// An agent inside of a system. Its functions may be called by any thread; but `close` by one that comes last.
///
/// It acts with the newest version that has come, and never waits for the network to do so; but it waits where it was
/// told to: `synchronous`, for the next version; and while `queue_steps` steps are on their way.
class Agent {
 public:
  /// Join the run, and wait for the first version of its policy.
  /// \param observation a Box. \param action a Box or a Discrete space. \param config where, and how.
  /// \throws InvalidArgument a field at fault; also where the spaces are not those of the run.
  /// \throws TimedOut no server, or no version, within `join_seconds`.
  /// \throws Refused the run has ended, or its policy is not one that this library computes: layers of plain numbers.
  Agent(Space observation, Space action, AgentConfig config = {});
  /// Closes; what could not be delivered is said in the log.
  ~Agent();
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  /// Choose an action.
  /// \param observation in C order, `observation.size()` finite numbers.
  /// \param mask one for each choice, not 0: legal; empty: all are.
  /// \param episode which of several at once; the first action of a name begins it.
  /// \throws InvalidArgument this is no observation, or nothing is legal.
  Action requestForAction(const std::vector<float>& observation, const std::vector<std::uint8_t>& mask = {},
                          const std::string& episode = "");
  /// The action was taken: it is the next step of the episode that it was asked for.
  /// \throws InvalidArgument it was added already. \throws Refused there is no place (see `queue_steps`).
  Step addToTrajectory(const Action& action);
  /// Say what a step was worth, in any order; said again, the last word counts.
  /// \throws RewardTooLate it was sent, or nothing is. \throws InvalidArgument no finite number.
  void updateReward(const Step& step, double reward);
  /// The episode is over. What was not said of its rewards is 0, unless they follow.
  /// \param end in which way. \param episode its name.
  /// \param last what was seen last; a truncated episode needs it.
  /// \param rewards_follow steps without a reward wait for it, until `flush` or `close`.
  /// \throws InvalidArgument no such episode is under way, or `last` is missing.
  void markEndOfTrajectory(End end, const std::vector<float>& last = {}, const std::string& episode = "",
                           bool rewards_follow = false);
  /// Send everything that is known and wait until it is stored; rewards that were not said are 0 then.
  /// \throws Undelivered it was not, in time; it stays here.
  void flush(Seconds timeout = Seconds{60});
  /// Flush and leave; unfinished episodes are sent as far as they went.
  /// \throws Undelivered not everything was stored in time; it is lost with this object.
  void close(Seconds timeout = Seconds{60});

  int version() const;             ///< Of the policy that acts now.
  const std::string& runId() const;  ///< Of the run.
  bool runEnded() const;           ///< Whether the run takes no more: the agent still acts, and nothing is sent.
  std::int64_t stored() const;     ///< Steps that the server has acknowledged.
  std::int64_t rejected() const;   ///< Steps that the server put aside, with the reason in the log.
  std::int64_t unfinished() const;  ///< Steps of episodes that were under way at `close`, and could not be sent.
  std::int64_t unkept() const;      ///< Steps that were taken when nothing was sent any more: the run had ended.

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace auxilium
