// CartPole learned by an agent in C++: the poles are here, the learner is at the server's.
//
//     cartpole_agent --address 127.0.0.1:50051 --steps 100000

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <numeric>
#include <string>
#include <vector>

#include "auxilium/agent.h"
#include "cartpole.h"

namespace {

constexpr int kPoles = 8;
constexpr int kEpisodes = 20;
// Those of RL Baselines3 Zoo for eight environments, in rollouts of the same size.
const char* const kPpo =
    R"({"n_steps": 256, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20,
       "learning_rate": "lin_1e-3", "clip_range": "lin_0.2"})";

struct Options {
  std::string address = "127.0.0.1:50051";
  std::string experiment = "cartpole-cpp";
  std::int64_t steps = 100'000;
  std::int64_t seed = 0;
};

Options parsed(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string name = words[i];
    const bool known = name == "--address" || name == "--experiment" || name == "--steps" || name == "--seed";
    if (!known || i + 1 >= count) {
      std::fprintf(stderr, "usage: cartpole_agent [--address HOST:PORT] [--experiment ID] [--steps N] [--seed N]\n");
      std::exit(2);
    }
    const std::string value = words[++i];
    if (name == "--address") options.address = value;
    if (name == "--experiment") options.experiment = value;
    if (name == "--steps") options.steps = std::atoll(value.c_str());
    if (name == "--seed") options.seed = std::atoll(value.c_str());
  }
  return options;
}

std::vector<float> seen(const sim::CartPole& pole) {
  const sim::Observation observation = pole.observation();
  return {observation.begin(), observation.end()};
}

// One of several poles that the agent balances at once, each an episode of its own name.
struct Pole {
  explicit Pole(int number, std::uint64_t seed) : name("pole " + std::to_string(number)) {
    cartpole.seed(seed);
    cartpole.reset();
  }

  std::string name;
  sim::CartPole cartpole;
  double sum = 0;
};

// Until the run has all its steps; gives its id.
std::string learn(const Options& options) {
  auxilium::AgentConfig config;
  config.address = options.address;
  config.experiment_id = options.experiment;
  config.agent_id = "cpp";
  config.total_timesteps = options.steps;
  config.hyperparameters = kPpo;
  config.synchronous = true;
  config.seed = options.seed;
  auxilium::Agent agent(auxilium::Space::box(-INFINITY, INFINITY, {sim::kObservationSize}),
                        auxilium::Space::discrete(sim::kActions), config);
  std::vector<Pole> poles;
  for (int i = 0; i < kPoles; ++i) poles.emplace_back(i, static_cast<std::uint64_t>(options.seed * kPoles + i));
  std::deque<double> returns;
  std::int64_t steps = 0;
  while (!agent.runEnded()) {
    for (Pole& pole : poles) {
      const auxilium::Action action = agent.requestForAction(seen(pole.cartpole), {}, pole.name);
      const auxilium::Step step = agent.addToTrajectory(action);
      const sim::StepResult result = pole.cartpole.step(action.index);
      agent.updateReward(step, result.reward);
      pole.sum += result.reward;
      if (result.terminated || result.truncated) {
        agent.markEndOfTrajectory(result.terminated ? auxilium::End::kTerminated : auxilium::End::kTruncated,
                                  seen(pole.cartpole), pole.name);
        returns.push_back(pole.sum);
        if (returns.size() > 100) returns.pop_front();
        pole.sum = 0;
        pole.cartpole.reset();
      }
      if (++steps % 10'000 == 0) {
        const double mean = std::accumulate(returns.begin(), returns.end(), 0.0) / static_cast<double>(returns.size());
        std::printf("%lld steps, version %d, mean return %.1f\n", static_cast<long long>(steps), agent.version(), mean);
        std::fflush(stdout);
      }
    }
  }
  agent.close();
  return agent.runId();
}

// The mean return of the best actions, on poles that it never balanced.
double evaluate(const Options& options, const std::string& run_id) {
  auxilium::AgentConfig config;
  config.address = options.address;
  config.run_id = run_id;
  config.explore = false;
  auxilium::Agent agent(auxilium::Space::box(-INFINITY, INFINITY, {sim::kObservationSize}),
                        auxilium::Space::discrete(sim::kActions), config);
  sim::CartPole pole;
  pole.seed(static_cast<std::uint64_t>(options.seed) + 1'000'000);
  double sum = 0;
  for (int episode = 0; episode < kEpisodes; ++episode) {
    pole.reset();
    while (pole.running()) sum += pole.step(agent.requestForAction(seen(pole)).index).reward;
  }
  return sum / kEpisodes;
}

}  // namespace

int main(int count, char** words) {
  const Options options = parsed(count, words);
  try {
    const std::string run_id = learn(options);
    std::printf("run %s: mean return %.1f over %d episodes\n", run_id.c_str(), evaluate(options, run_id), kEpisodes);
  } catch (const auxilium::Error& failed) {
    std::fprintf(stderr, "%s\n", failed.what());
    return 1;
  }
  return 0;
}
