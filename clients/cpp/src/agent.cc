#include "auxilium/agent.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>
#include <utility>

#include "auxilium/v1/runs.grpc.pb.h"
#include "episode.h"
#include "json.h"
#include "link.h"
#include "outbox.h"
#include "packer.h"
#include "weights.h"

namespace auxilium {
namespace {

namespace v1 = ::auxilium::v1;
using internal::Choice;
using internal::Episode;
using std::chrono::steady_clock;

constexpr std::int64_t kSpanBytes = 128;  // of a span of a chunk, and of everything else that comes with one, at most
constexpr int kPatient = 50;  // tenths of a second without the next version, after which the log says what may be missing

std::string machine() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 && name[0] != '\0' ? name : "agent";
}

std::string random_name() {
  std::random_device device;
  std::string name;
  for (int i = 0; i < 32; ++i) name += "0123456789abcdef"[device() & 15];
  return name;
}

std::uint64_t drawn_seed() {
  std::random_device device;
  return static_cast<std::uint64_t>(device()) << 32 | device();
}

steady_clock::time_point in(Seconds seconds) {
  return steady_clock::now() + std::chrono::duration_cast<steady_clock::duration>(seconds);
}

template <typename Value>
void at_least(const char* field, Value value, Value least) {
  if (!(value >= least)) {
    throw InvalidArgument(field, std::to_string(value) + " given; at least " + std::to_string(least) + " is accepted");
  }
}

void check(const Space& observation, const Space& action, const AgentConfig& config) {
  if (observation.kind != Space::Kind::kBox) throw InvalidArgument("observation", "a Discrete space given; a Box is accepted");
  if (config.masked && action.kind != Space::Kind::kDiscrete) {
    throw InvalidArgument("masked", "true given; only the choices of a Discrete space have masks");
  }
  at_least<std::int64_t>("agents", config.agents, 1);
  at_least<std::int64_t>("total_timesteps", config.total_timesteps, 1);
  at_least<std::int64_t>("chunk_steps", config.chunk_steps, 1);
  at_least<std::int64_t>("chunk_bytes", config.chunk_bytes, 1);
  at_least<std::int64_t>("queue_steps", config.queue_steps, config.chunk_steps);
  at_least("chunk_seconds", config.chunk_seconds.count(), 0.0);
  at_least("join_seconds", config.join_seconds.count(), 0.0);
  at_least("call_seconds", config.call_seconds.count(), 0.0);
  if (config.noise) at_least("noise", *config.noise, 0.0);
  internal::parse_json(config.hyperparameters, "hyperparameters");
}

}  // namespace

class Agent::Impl {
 public:
  Impl(Space observation, Space action, AgentConfig config)
      : observation_(std::move(observation)),
        action_(std::move(action)),
        config_(std::move(config)),
        mask_len_(config_.masked ? action_.n : 0),
        random_(config_.seed ? static_cast<std::uint64_t>(*config_.seed) : drawn_seed()),
        outbox_(config_.queue_steps) {
    check(observation_, action_, config_);
    if (!config_.log) config_.log = [](const std::string& text) { std::cerr << "auxilium: " << text << '\n'; };
    number_ = static_cast<std::int64_t>(drawn_seed() >> 24) << 20;
    join();
  }

  ~Impl() { hang_up(); }

  Action request(const std::vector<float>& observation, const std::vector<std::uint8_t>& mask, const std::string& name) {
    check_observation("observation", observation);
    check_mask(mask);
    const std::lock_guard<std::mutex> acting(acting_);
    auto choice = std::make_shared<Choice>();
    choice->episode = under_way(name, observation);
    const auto held = weights_->now();
    internal::Drawn drawn = config_.explore ? held->sampler.draw(observation.data(), mask, random_)
                                            : held->sampler.best(observation.data(), mask);
    Action action;
    action.index = drawn.index + action_.start;
    action.values = std::move(drawn.sent);
    action.log_prob = choice->log_prob = drawn.log_prob;
    action.version = choice->version = held->version;
    choice->seen = observation;
    choice->mask = mask.empty() ? std::vector<std::uint8_t>(static_cast<std::size_t>(mask_len_), 1) : mask;
    choice->index = drawn.index;
    choice->taken = std::move(drawn.taken);
    action.choice = std::move(choice);
    return action;
  }

  Step add(const Action& action) {
    if (!action.choice) throw InvalidArgument("action", "one that no agent chose given");
    const std::lock_guard<std::mutex> acting(acting_);
    const Choice& choice = *action.choice;
    if (choice.added) throw InvalidArgument("action", "it was added to its trajectory already");
    choice.added = true;
    if (!choice.episode) {
      if (config_.explore) ++unkept_;
      return {};
    }
    Step step;
    {
      const std::lock_guard<std::mutex> lock(lock_);
      if (choice.episode->over()) throw InvalidArgument("action", "its episode has ended");
      step = {choice.episode, choice.episode->add(choice)};
      ++unsent_;
    }
    if (unsent() % chunk_ == 0) notify();
    if (unsent() >= config_.queue_steps || outbox_.full()) make_room();
    return step;
  }

  void reward(const Step& step, double reward) {
    const auto value = static_cast<float>(reward);
    if (!std::isfinite(value)) {
      throw InvalidArgument("reward", std::to_string(reward) + " given; a finite number is accepted");
    }
    if (!config_.explore) throw RewardTooLate("an agent with explore=false sends no steps; there is no reward to say");
    if (!step.episode) return;  // it came after the end of the run
    const std::lock_guard<std::mutex> lock(lock_);
    step.episode->put_reward(step.number, value);
  }

  void end(End how, const std::vector<float>& last, const std::string& name, bool rewards_follow) {
    if (how == End::kTruncated && last.empty()) {
      throw InvalidArgument("last", "none given; a truncated episode is worth what was seen last");
    }
    if (!last.empty()) check_observation("last", last);
    if (!config_.explore) return;
    const std::lock_guard<std::mutex> acting(acting_);
    bool complete = false;
    {
      const std::lock_guard<std::mutex> lock(lock_);
      const auto found = episodes_.find(name);
      if (found == episodes_.end()) {
        if (closed_ || link_->unheard()) return;
        throw InvalidArgument("episode", "'" + name + "' given, which has not begun");
      }
      complete = is_last_open(*found->second);
      found->second->end(how == End::kTerminated, last, rewards_follow);
      ending_.push_back(found->second);
      episodes_.erase(found);
    }
    if (complete) step_completed();
    if (unsent() >= chunk_) notify();
  }

  void flush(Seconds timeout) {
    force();
    check_packing();
    if (link_ && !delivered(timeout)) {
      const std::int64_t steps = outbox_.steps();
      if (steps == 0) return;
      throw Undelivered(steps, std::to_string(steps) + " steps were not stored: " + why(timeout));
    }
  }

  void close(Seconds timeout) {
    if (closed_) return;
    std::int64_t lost = 0;
    if (link_) {
      force();
      unfinished_ = under_way_steps();
      outbox_.close();
      if (!delivered(timeout) && !link_->ended()) lost = outbox_.steps();
      for (const auto& rows : held_) lost += static_cast<std::int64_t>(rows.versions.size());
    }
    const std::string reason = lost > 0 ? why(timeout) : "";
    hang_up();
    if (lost > 0) throw Undelivered(lost, std::to_string(lost) + " steps are lost: " + reason);
  }

  bool closed() const { return closed_; }
  void log(const std::string& text) const { config_.log(text); }
  int version() const { return weights_->now()->version; }
  const std::string& run_id() const { return config_.run_id; }
  bool run_ended() const { return link_ && link_->ended(); }
  std::int64_t stored() const { return outbox_.acknowledged(); }
  std::int64_t rejected() const { return outbox_.rejected(); }
  std::int64_t unfinished() const { return unfinished_; }
  std::int64_t unkept() const { return unkept_; }

 private:
  // -- joining

  void join() {
    const auto until = in(config_.join_seconds);
    channel_ = internal::channel_to(config_.address);
    if (config_.run_id.empty()) config_.run_id = started(until);
    try {
      if (config_.explore) {
        link_ = std::make_unique<internal::Link>(
            channel_, introduction(), outbox_, [this] { notify(); }, config_.log);
        const auto welcome = link_->wait_for_welcome(until - steady_clock::now());
        quota_ = welcome.quota();
        chunk_ = steps_of_chunk(welcome.max_chunk_bytes());
      }
      weights_ = std::make_unique<internal::Weights>(
          channel_, config_.run_id,
          [this](const std::string& description, const std::string& weights) {
            return internal::Sampler(internal::Network(description, weights), observation_, action_, config_.noise);
          },
          config_.log);
      if (!weights_->wait_for(0, until - steady_clock::now())) {
        weights_->check();
        throw TimedOut("no version of run '" + config_.run_id + "' came in time: " + weights_->fault());
      }
    } catch (...) {
      hang_up();
      throw;
    }
    if (config_.explore) packing_ = std::thread([this] { pack_on(); });
  }

  // Those that are asked for, and never more than the server accepts.
  std::int64_t steps_of_chunk(std::int64_t accepted) const {
    const auto numbers = [](const Space& space) { return static_cast<std::int64_t>(space.size()); };
    const std::int64_t seen = 4 * numbers(observation_);
    const std::int64_t step = seen + 8 * numbers(action_) + mask_len_ + 8;
    // A step may be a span of its own, with what followed it.
    const std::int64_t most = step + seen + kSpanBytes;
    // Of a step that is too large the bounds are, too: the server refused to be told of them before.
    const std::int64_t asked = std::min<std::int64_t>(config_.chunk_steps, config_.chunk_bytes / step);
    return std::max<std::int64_t>(std::min(asked, accepted / most), 1);
  }

  internal::Link::Join introduction() const {
    internal::Link::Join join;
    join.set_run_id(config_.run_id);
    join.set_agent_id(config_.agent_id.empty() ? machine() : config_.agent_id);
    join.set_incarnation(random_name());
    *join.mutable_observation() = internal::message_of(observation_);
    *join.mutable_action() = internal::message_of(action_);
    join.set_mask_len(static_cast<int>(mask_len_));
    join.set_buffer(buffer());
    return join;
  }

  // As messages have it.
  std::string buffer() const { return config_.buffer == "online" ? "" : config_.buffer; }

  // The run of the experiment: whoever asks first starts it, the others get the same one.
  std::string started(steady_clock::time_point until) {
    v1::StartRunRequest request;
    request.set_experiment_id(config_.experiment_id);
    request.set_algorithm(config_.algorithm);
    request.set_total_timesteps(config_.total_timesteps);
    if (config_.seed) request.set_seed(*config_.seed);
    *request.mutable_hyperparameters() = internal::parse_json(config_.hyperparameters, "hyperparameters");
    request.set_idempotency_key("agents:" + config_.experiment_id);
    request.set_policy_name(config_.policy_name);
    v1::EnvironmentSource& environment = *request.mutable_environment();
    environment.set_uri("agents");
    environment.set_lanes(config_.agents);
    *environment.mutable_observation_space() = internal::message_of(observation_);
    *environment.mutable_action_space() = internal::message_of(action_);
    environment.set_mask_len(static_cast<int>(mask_len_));
    request.mutable_experience()->set_synchronous(config_.synchronous);
    if (config_.max_staleness) request.mutable_experience()->set_max_staleness(*config_.max_staleness);

    const auto stub = v1::RunService::NewStub(channel_);
    internal::Pauses pauses(std::chrono::milliseconds(1000));
    for (;;) {
      grpc::ClientContext context;
      const auto deadline = std::min(in(config_.call_seconds), until) - steady_clock::now();
      context.set_deadline(std::chrono::system_clock::now() +
                           std::chrono::duration_cast<std::chrono::system_clock::duration>(deadline));
      v1::Run run;
      const grpc::Status status = stub->StartRun(&context, request, &run);
      if (status.ok()) return run.run_id();
      if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT) throw InvalidArgument("run", internal::text_of(status));
      const bool again = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                         status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
      if (!again) throw Refused(internal::text_of(status));
      if (steady_clock::now() >= until) {
        throw TimedOut("no server at " + config_.address + " started the run: " + internal::text_of(status));
      }
      pauses.wait();
    }
  }

  void hang_up() {
    closed_ = true;
    notify();
    if (packing_.joinable()) packing_.join();
    if (link_) link_->stop();
    if (weights_) weights_->stop();
  }

  // -- acting

  void check_observation(const char* field, const std::vector<float>& observation) const {
    if (observation.size() != observation_.size()) {
      throw InvalidArgument(field, std::to_string(observation.size()) + " numbers given; " +
                                       std::to_string(observation_.size()) + " are accepted");
    }
    for (std::size_t i = 0; i < observation.size(); ++i) {
      if (!std::isfinite(observation[i])) {
        throw InvalidArgument(field, std::to_string(observation[i]) + " given at " + std::to_string(i) +
                                         "; every number must be finite");
      }
    }
  }

  void check_mask(const std::vector<std::uint8_t>& mask) const {
    if (mask.empty()) return;
    if (static_cast<std::int64_t>(mask.size()) != mask_len_) {
      throw InvalidArgument("mask", std::to_string(mask.size()) + " values given; " +
                                        (mask_len_ > 0 ? std::to_string(mask_len_) + " are accepted"
                                                       : std::string("this agent was made without masks")));
    }
    if (std::none_of(mask.begin(), mask.end(), [](std::uint8_t one) { return one != 0; })) {
      throw InvalidArgument("mask", "nothing is legal; at least one choice must be");
    }
  }

  // The episode of a name, in which this is seen now; null: nobody is told of it.
  std::shared_ptr<Episode> under_way(const std::string& name, const std::vector<float>& seen) {
    if (!config_.explore || closed_ || link_->unheard()) return nullptr;
    std::shared_ptr<Episode> now;
    bool complete = false;
    {
      const std::lock_guard<std::mutex> lock(lock_);
      std::shared_ptr<Episode>& place = episodes_[name];
      if (!place) place = std::make_shared<Episode>(++number_, name, lock_);
      now = place;
      complete = is_last_open(*now);
      if (now->waiting() > 0) now->saw(seen);
    }
    if (complete) step_completed();
    if (quota_ > 0 && completed_ >= quota_) await_next();
    return now;
  }

  // Whether it is not known yet what came after the last step. Steps that were all sent wait for nothing; one that was
  // asked for twice is complete once.
  static bool is_last_open(const Episode& episode) { return episode.waiting() > 0 && !episode.saw_next(); }

  // In synchronous mode so many are complete with one version.
  void step_completed() {
    const int version = weights_->now()->version;
    if (version != acted_with_) {
      acted_with_ = version;
      completed_ = 0;
    }
    ++completed_;
  }

  void await_next() {
    const int version = acted_with_;
    int waited = 0;
    while (!link_->unheard() && !closed_) {
      {
        const std::lock_guard<std::mutex> work(work_mutex_);
        at_once_ = true;
        work_.notify_all();
      }
      check_packing();
      if (weights_->wait_for(version + 1, Seconds(0.1))) break;
      if (++waited == kPatient && unrewarded() > 0) {
        config_.log(std::to_string(unrewarded()) + " steps wait for their rewards, and the next version for them");
      }
    }
    acted_with_ = weights_->now()->version;
    completed_ = 0;
  }

  // -- sending

  std::int64_t unsent() const {
    const std::lock_guard<std::mutex> lock(lock_);
    return unsent_;
  }

  std::int64_t unrewarded() const {
    const std::lock_guard<std::mutex> lock(lock_);
    std::int64_t count = 0;
    for (const auto& one : ending_) count += one->waiting() - one->ready(false);
    for (const auto& [name, one] : episodes_) count += one->waiting() - one->ready(false);
    return count;
  }

  // Steps of episodes that have not ended.
  std::int64_t under_way_steps() const {
    const std::lock_guard<std::mutex> lock(lock_);
    std::int64_t count = 0;
    for (const auto& [name, one] : episodes_) count += one->waiting();
    return count;
  }

  std::int64_t ready() const {
    const std::lock_guard<std::mutex> lock(lock_);
    std::int64_t count = 0;
    for (const auto& one : ending_) count += one->ready(false);
    for (const auto& [name, one] : episodes_) count += one->ready(false);
    return count;
  }

  // Wait while there is no place for more.
  void make_room() {
    notify();
    bool told = false;
    while ((unsent() >= config_.queue_steps || outbox_.full()) && !closed_ && !link_->unheard()) {
      check_packing();
      if (ready() == 0 && !outbox_.full()) {
        throw Refused(std::to_string(unsent()) + " steps wait for their rewards (queue_steps is " +
                      std::to_string(config_.queue_steps) + "); say them, or end the episode");
      }
      if (!told) config_.log("acting slows down: " + std::to_string(outbox_.steps()) + " steps wait to be stored");
      told = true;
      outbox_.wait_a_moment();
    }
  }

  void notify() {
    const std::lock_guard<std::mutex> work(work_mutex_);
    work_.notify_all();
  }

  // Have everything packed that can be.
  void force() {
    if (!packing_.joinable()) return;
    std::unique_lock<std::mutex> work(work_mutex_);
    forced_ = true;
    work_.notify_all();
    work_.wait(work, [this] { return !forced_ || closed_; });
  }

  void check_packing() {
    const std::lock_guard<std::mutex> work(work_mutex_);
    if (!fault_.empty()) throw Error("experience cannot be packed, and waits here: " + fault_);
  }

  void pack_on() {
    bool idle = true;
    std::unique_lock<std::mutex> work(work_mutex_);
    for (;;) {
      const bool hurry = forced_ || closed_ || at_once_;
      if (!hurry && (idle || unsent() < chunk_)) {
        if (config_.chunk_seconds.count() > 0) {
          work_.wait_for(work, config_.chunk_seconds);
        } else {
          work_.wait(work);
        }
      }
      const bool forced = forced_;
      const bool closed = closed_;
      at_once_ = false;
      work.unlock();
      const std::int64_t before = outbox_.next_seq();
      std::string fault;
      try {
        while (pack(forced)) {
        }
      } catch (const std::exception& failed) {  // what is here must not be forgotten because one chunk failed
        fault = failed.what();
      }
      idle = outbox_.next_seq() == before;  // steps that wait for their rewards are no work
      work.lock();
      if (!fault.empty() && fault_.empty()) config_.log("experience cannot be packed: " + fault);
      fault_ = fault;
      if (forced) {
        forced_ = false;
        work_.notify_all();
      }
      if (closed) return;
    }
  }

  // Pack one chunk; whether there may be more.
  bool pack(bool force) {
    if (link_->unheard() || (outbox_.full() && !force)) return false;
    if (held_.empty()) take(force);  // what could not be packed last time is tried again, before what came after it
    if (held_.empty()) return false;
    v1::Chunk chunk = internal::pack(outbox_.next_seq(), held_, action_, mask_len_);
    chunk.set_buffer(buffer());
    const bool more = chunk.count() >= chunk_ || force;
    outbox_.put(std::move(chunk));
    held_.clear();
    return more;
  }

  // Steps for one chunk, the oldest episodes first.
  void take(bool force) {
    const std::lock_guard<std::mutex> lock(lock_);
    std::int64_t left = chunk_;
    const auto from = [&](Episode& episode) {
      const std::int64_t count = std::min(episode.ready(force), left);
      if (count <= 0) return;
      held_.push_back(episode.take(count));
      left -= count;
      unsent_ -= count;
    };
    for (const auto& one : ending_) from(*one);
    for (const auto& [name, one] : episodes_) from(*one);
    ending_.erase(std::remove_if(ending_.begin(), ending_.end(), [](const auto& one) { return one->waiting() == 0; }),
                  ending_.end());
  }

  bool delivered(Seconds timeout) {
    return outbox_.drained(in(timeout), [this] { return link_->unheard(); });
  }

  std::string why(Seconds timeout) const {
    if (run_ended()) return "the run has ended";
    const std::string fault = link_ ? link_->fault() : "";
    return "not within " + std::to_string(timeout.count()) + " s: " + (fault.empty() ? "no answer" : fault);
  }

  const Space observation_, action_;
  AgentConfig config_;
  const std::int64_t mask_len_;
  std::shared_ptr<grpc::Channel> channel_;

  mutable std::mutex lock_;  // episodes
  std::map<std::string, std::shared_ptr<Episode>> episodes_;
  std::vector<std::shared_ptr<Episode>> ending_;
  std::int64_t number_ = 0;
  std::int64_t unsent_ = 0;
  std::atomic<std::int64_t> unfinished_{0};
  std::atomic<std::int64_t> unkept_{0};

  std::mutex acting_;
  internal::SplitMix64 random_;
  std::int64_t completed_ = 0;
  int quota_ = 0;
  std::int64_t chunk_ = 1;  // steps
  int acted_with_ = -1;

  mutable std::mutex work_mutex_;  // packing
  std::condition_variable work_;
  bool forced_ = false;
  bool at_once_ = false;
  std::atomic<bool> closed_{false};
  std::string fault_;
  std::vector<internal::Rows> held_;

  internal::Outbox outbox_;
  std::unique_ptr<internal::Weights> weights_;
  std::unique_ptr<internal::Link> link_;
  std::thread packing_;
};

Agent::Agent(Space observation, Space action, AgentConfig config)
    : impl_(std::make_unique<Impl>(std::move(observation), std::move(action), std::move(config))) {}

Agent::~Agent() {
  if (impl_->closed()) return;
  try {
    impl_->close(Seconds{10});
  } catch (const std::exception& failed) {
    impl_->log(failed.what());
  }
}

Action Agent::requestForAction(const std::vector<float>& observation, const std::vector<std::uint8_t>& mask,
                               const std::string& episode) {
  return impl_->request(observation, mask, episode);
}

Step Agent::addToTrajectory(const Action& action) { return impl_->add(action); }

void Agent::updateReward(const Step& step, double reward) { impl_->reward(step, reward); }

void Agent::markEndOfTrajectory(End end, const std::vector<float>& last, const std::string& episode,
                                bool rewards_follow) {
  impl_->end(end, last, episode, rewards_follow);
}

void Agent::flush(Seconds timeout) { impl_->flush(timeout); }
void Agent::close(Seconds timeout) { impl_->close(timeout); }
int Agent::version() const { return impl_->version(); }
const std::string& Agent::runId() const { return impl_->run_id(); }
bool Agent::runEnded() const { return impl_->run_ended(); }
std::int64_t Agent::stored() const { return impl_->stored(); }
std::int64_t Agent::rejected() const { return impl_->rejected(); }
std::int64_t Agent::unfinished() const { return impl_->unfinished(); }
std::int64_t Agent::unkept() const { return impl_->unkept(); }

}  // namespace auxilium
