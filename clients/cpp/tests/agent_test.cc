// An agent and a real server: AUXILIUM_ADDRESS says where. Whoever starts this looks at what was stored.
#include "auxilium/agent.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <set>
#include <thread>

#include "auxilium/v1/runs.grpc.pb.h"

namespace auxilium {
namespace {

const Space kSeen = Space::box(-1, 1, {2});
const Space kChoices = Space::discrete(3, 1);
const char* const kPpo = R"({"n_steps": 64, "batch_size": 32, "n_epochs": 1, "policy_kwargs": {"net_arch": [16]}})";

std::string address() {
  const char* told = std::getenv("AUXILIUM_ADDRESS");
  return told == nullptr ? "" : told;
}

// What an agent has to say.
struct Heard {
  std::mutex mutex;
  std::string all;

  std::function<void(const std::string&)> log() {
    return [this](const std::string& text) {
      const std::lock_guard<std::mutex> lock(mutex);
      all += text + "\n";
    };
  }
};

AgentConfig config(const std::string& experiment, const std::string& agent = "cpp") {
  AgentConfig made;
  made.address = address();
  made.experiment_id = experiment;
  made.agent_id = agent;
  made.total_timesteps = 1'000'000'000;
  made.hyperparameters = kPpo;
  made.seed = 1;
  made.chunk_seconds = Seconds(0.02);
  return made;
}

class AgentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (address().empty()) GTEST_SKIP() << "AUXILIUM_ADDRESS names no server";
  }

  // No run outlives its test, so that the next one finds a worker.
  void TearDown() override { stop_runs(); }

  void stop_runs() {
    const auto stub = ::auxilium::v1::RunService::NewStub(
        grpc::CreateChannel(address(), grpc::InsecureChannelCredentials()));
    for (const std::string& id : runs) {
      ::auxilium::v1::StopRunRequest request;
      request.set_run_id(id);
      request.set_immediate(true);
      ::auxilium::v1::Run answer;
      grpc::ClientContext context;
      EXPECT_TRUE(stub->StopRun(&context, request, &answer).ok());
    }
    runs.clear();
  }

  // Of a run that ends with the test.
  void noted(const Agent& agent) { runs.insert(agent.runId()); }

  std::set<std::string> runs;
};

TEST_F(AgentTest, RewardsThatComeLateAreStored) {
  Agent agent(kSeen, kChoices, config("late"));
  noted(agent);
  std::vector<Step> steps;
  std::set<std::int64_t> chosen;
  for (int i = 0; i < 40; ++i) {
    const std::string episode = i % 2 == 0 ? "even" : "odd";
    const Action action = agent.requestForAction({0.5F, static_cast<float>(i) / 40}, {}, episode);
    chosen.insert(action.index);
    EXPECT_LT(action.log_prob, 0);
    EXPECT_GE(action.version, 0);
    steps.push_back(agent.addToTrajectory(action));
    EXPECT_THROW(agent.addToTrajectory(action), InvalidArgument);
  }
  EXPECT_EQ(chosen, (std::set<std::int64_t>{1, 2, 3})) << "start is inside";
  for (int i = 39; i >= 0; --i) agent.updateReward(steps[static_cast<std::size_t>(i)], -1);
  for (int i = 39; i >= 0; --i) agent.updateReward(steps[static_cast<std::size_t>(i)], i);
  agent.markEndOfTrajectory(End::kTerminated, {}, "even");
  agent.markEndOfTrajectory(End::kTruncated, {0, 0}, "odd");
  agent.flush();
  EXPECT_EQ(agent.stored(), 40);
  EXPECT_THROW(agent.updateReward(steps[0], 1), RewardTooLate);
  agent.close();
  agent.close();
}

TEST_F(AgentTest, WhatCannotBeSentIsCounted) {
  Agent agent(kSeen, kChoices, config("counted"));
  noted(agent);
  const auto step = [&agent] {
    agent.updateReward(agent.addToTrajectory(agent.requestForAction({0, 0})), 1);
  };
  for (int i = 0; i < 3; ++i) step();
  agent.flush();
  EXPECT_EQ(agent.stored(), 2) << "what came after the last one is not known yet";
  EXPECT_EQ(agent.unkept(), 0);
  stop_runs();
  while (!agent.runEnded()) std::this_thread::yield();
  for (int i = 0; i < 4; ++i) step();
  EXPECT_EQ(agent.unkept(), 4);
  agent.close();
  EXPECT_EQ(agent.unfinished(), 1);
  EXPECT_EQ(agent.stored() + agent.unfinished() + agent.unkept(), 7);
}

TEST_F(AgentTest, InSynchronousModeAStepIsCompleteOnce) {
  AgentConfig made = config("once");
  made.synchronous = true;
  Agent agent(kSeen, kChoices, made);
  noted(agent);
  const auto step = [&agent](const std::string& episode) {
    agent.requestForAction({0.5, 0.5}, {}, episode);  // and not taken
    const Action action = agent.requestForAction({0, 0}, {}, episode);
    agent.updateReward(agent.addToTrajectory(action), 1);
    return action.version;
  };
  for (int i = 0; i < 63; ++i) EXPECT_EQ(step("first"), 0);
  agent.requestForAction({0.5, 0.5}, {}, "first");
  agent.markEndOfTrajectory(End::kTerminated, {}, "first");
  EXPECT_EQ(step("second"), 0) << "the last of 64";
  agent.markEndOfTrajectory(End::kTerminated, {}, "second");
  EXPECT_EQ(step("third"), 1) << "the first of an episode is one with the next version, too";
  agent.close();
}

TEST_F(AgentTest, NoChunkIsLargerThanTheServerAccepts) {
  const std::size_t width = 8'000;
  AgentConfig made = config("wide");
  made.hyperparameters = R"({"n_steps": 256, "batch_size": 32, "policy_kwargs": {"net_arch": [2]}})";
  made.chunk_bytes = std::int64_t{1} << 30;
  Agent agent(Space::box(-1, 1, {static_cast<std::int64_t>(width)}), kChoices, made);
  noted(agent);
  for (int i = 0; i < 120; ++i) {  // 3.8 MB in one chunk; messages of 1 are accepted
    agent.updateReward(agent.addToTrajectory(agent.requestForAction(std::vector<float>(width, 0.5F))), i);
  }
  agent.markEndOfTrajectory(End::kTerminated);
  agent.flush();
  EXPECT_EQ(agent.stored(), 120);
}

TEST_F(AgentTest, WhatIsWrongIsNamed) {
  Agent agent(kSeen, kChoices, config("wrong"));
  noted(agent);
  const auto said = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const InvalidArgument& wrong) {
      return wrong.what();
    }
    return "nothing";
  };
  EXPECT_EQ(said([&] { agent.requestForAction({1}); }), "observation: 1 numbers given; 2 are accepted");
  EXPECT_EQ(said([&] { agent.requestForAction({1, NAN}); }), "observation: nan given at 1; every number must be finite");
  EXPECT_EQ(said([&] { agent.requestForAction({1, 1}, {1, 1, 1}); }),
            "mask: 3 values given; this agent was made without masks");
  EXPECT_EQ(said([&] { agent.markEndOfTrajectory(End::kTerminated, {}, "?"); }),
            "episode: '?' given, which has not begun");
  EXPECT_EQ(said([&] { agent.addToTrajectory({}); }), "action: one that no agent chose given");
  const Step step = agent.addToTrajectory(agent.requestForAction({0, 0}));
  EXPECT_EQ(said([&] { agent.updateReward(step, std::numeric_limits<double>::infinity()); }),
            "reward: inf given; a finite number is accepted");
  EXPECT_NE(said([&] { agent.markEndOfTrajectory(End::kTruncated); }).find("last: none given"), std::string::npos);
  EXPECT_NE(said([&] { agent.markEndOfTrajectory(End::kTruncated, {0}); }).find("last: 1 numbers"), std::string::npos);

  AgentConfig other = config("wrong", "other");
  other.run_id = agent.runId();
  const std::string spaces = said([&] { Agent(Space::box(-1, 1, {3}), kChoices, other); });
  EXPECT_NE(spaces.find("observation"), std::string::npos) << spaces;
  other = config("new", "other");
  other.hyperparameters = R"({"gama": 1})";
  EXPECT_NE(said([&] { Agent(kSeen, kChoices, other); }).find("gama"), std::string::npos);
  other.hyperparameters = "[1]";
  EXPECT_NE(said([&] { Agent(kSeen, kChoices, other); }).find("hyperparameters: no JSON object"), std::string::npos);
  other = config("new", "other");
  other.queue_steps = 8;
  EXPECT_EQ(said([&] { Agent(kSeen, kChoices, other); }), "queue_steps: 8 given; at least 512 is accepted");
  other = config("new", "other");
  other.run_id = "no-such-run";
  EXPECT_THROW(Agent(kSeen, kChoices, other), Refused);
}

TEST_F(AgentTest, MasksHold) {
  AgentConfig masked = config("masked");
  masked.masked = true;
  Agent agent(kSeen, kChoices, masked);
  noted(agent);
  for (int i = 0; i < 50; ++i) {
    const Action action = agent.requestForAction({0, 0}, {1, 0, 1});
    EXPECT_NE(action.index, 2);
    agent.updateReward(agent.addToTrajectory(action), 1);
  }
  EXPECT_THROW(agent.requestForAction({0, 0}, {0, 0, 0}), InvalidArgument);
  EXPECT_THROW(agent.requestForAction({0, 0}, {1, 1}), InvalidArgument);
  agent.markEndOfTrajectory(End::kTerminated);
  agent.close();
  EXPECT_EQ(agent.stored(), 50);
}

TEST_F(AgentTest, WhoEvaluatesSendsNothing) {
  Agent learning(kSeen, kChoices, config("both"));
  noted(learning);
  AgentConfig best = config("both", "judge");
  best.run_id = learning.runId();
  best.explore = false;
  Agent agent(kSeen, kChoices, best);
  const std::int64_t first = agent.requestForAction({0.1F, 0.2F}).index;
  for (int i = 0; i < 20; ++i) {
    const Action action = agent.requestForAction({0.1F, 0.2F});
    EXPECT_EQ(action.index, first);
    EXPECT_THROW(agent.updateReward(agent.addToTrajectory(action), 1), RewardTooLate);
  }
  agent.markEndOfTrajectory(End::kTerminated);
  agent.close();
  EXPECT_EQ(agent.stored(), 0);
}

TEST_F(AgentTest, ActionsThatAreNumbers) {
  for (const std::string algorithm : {"ppo", "sac", "td3"}) {
    AgentConfig numbers = config("numbers-" + algorithm);
    numbers.algorithm = algorithm;
    numbers.hyperparameters = R"({"policy_kwargs": {"net_arch": [16]}})";
    Agent agent(kSeen, Space::box({-2, 0}, {2, 1}), numbers);
    noted(agent);
    for (int i = 0; i < 30; ++i) {
      const Action action = agent.requestForAction({0, 0});
      ASSERT_EQ(action.values.size(), 2U);
      EXPECT_TRUE(std::abs(action.values[0]) <= 2 && action.values[1] >= 0 && action.values[1] <= 1);
      EXPECT_EQ(std::isnan(action.log_prob), algorithm == "td3");
      agent.updateReward(agent.addToTrajectory(action), 1);
    }
    agent.markEndOfTrajectory(End::kTruncated, {0, 0});
    agent.close();
    EXPECT_EQ(agent.stored(), 30);
    stop_runs();
  }
}

TEST_F(AgentTest, NobodyAnswers) {
  Heard heard;
  AgentConfig lonely = config("lonely");
  lonely.address = "127.0.0.1:1";
  lonely.join_seconds = Seconds(0.5);
  lonely.log = heard.log();
  EXPECT_THROW(Agent(kSeen, kChoices, lonely), TimedOut);
  lonely.run_id = "somewhere";
  EXPECT_THROW(Agent(kSeen, kChoices, lonely), TimedOut);
}

TEST_F(AgentTest, TwoOfOneNameAreNotLetIn) {
  Agent first(kSeen, kChoices, config("names", "same"));
  noted(first);
  AgentConfig second = config("names", "same");
  second.join_seconds = Seconds(1);
  Heard heard;
  second.log = heard.log();
  EXPECT_THROW(Agent(kSeen, kChoices, second), TimedOut);
  EXPECT_NE(heard.all.find("same"), std::string::npos) << heard.all;
}

}  // namespace
}  // namespace auxilium
