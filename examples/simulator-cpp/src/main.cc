// Command line and signals.
#include <pthread.h>
#include <signal.h>

#include <charconv>
#include <chrono>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "attach.h"
#include "cartpole_lanes.h"
#include "fast_lane.h"
#include "server.h"
#include "session.h"
#include "unary_service.h"

namespace {

constexpr int kWrongUsage = 2;
constexpr std::uint32_t kMostLanes = 4096;  // more are refused by the trainer
constexpr auto kGraceAtShutdown = std::chrono::milliseconds(200);

constexpr char kUsage[] =
    "usage: cartpole_simulator --listen HOST:PORT [--lanes N] [--lease-ms N]\n"
    "                          [--fast-lane unix:///PATH | tcp://127.0.0.1:PORT]\n"
    "       cartpole_simulator --attach HOST:PORT --experiment ID [--lanes N] [--token HEX]\n";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string listen;
  std::string attach;
  std::string experiment;
  std::string token;
  std::string fast_lane;
  std::uint32_t lanes = 1;
  std::uint32_t lease_ms = 60000;
};

std::uint32_t parse_number(const std::string& name, const std::string& text, std::uint32_t least, std::uint32_t most) {
  std::uint32_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec == std::errc() && result.ptr == text.data() + text.size() && value >= least && value <= most) {
    return value;
  }
  throw UsageError(name + ": given \"" + text + "\", expected " + std::to_string(least) + ".." + std::to_string(most));
}

std::string parse_hex(const std::string& name, const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) {
    unsigned value = 0;
    const auto result = std::from_chars(text.data() + i, text.data() + i + 2, value, 16);
    if (result.ec != std::errc() || result.ptr != text.data() + i + 2) break;
    bytes.push_back(static_cast<char>(value));
  }
  if (2 * bytes.size() != text.size()) throw UsageError(name + ": expected pairs of hexadecimal digits");
  return bytes;
}

void set_option(Options& options, const std::string& name, const std::string& value) {
  if (name == "--listen") {
    options.listen = value;
  } else if (name == "--attach") {
    options.attach = value;
  } else if (name == "--experiment") {
    options.experiment = value;
  } else if (name == "--token") {
    options.token = parse_hex(name, value);
  } else if (name == "--fast-lane") {
    options.fast_lane = value;
  } else if (name == "--lanes") {
    options.lanes = parse_number(name, value, 1, kMostLanes);
  } else if (name == "--lease-ms") {
    options.lease_ms = parse_number(name, value, 0, 86400000);
  } else {
    throw UsageError("unknown option " + name);
  }
}

Options parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; i += 2) {
    if (i + 1 == count) throw UsageError(std::string(words[i]) + " needs a value");
    set_option(options, words[i], words[i + 1]);
  }
  if (options.listen.empty() == options.attach.empty()) throw UsageError("give either --listen or --attach");
  if (!options.listen.empty() && options.listen.find(':') == std::string::npos) {
    throw UsageError("--listen: given \"" + options.listen + "\", expected HOST:PORT");
  }
  if (!options.attach.empty() && options.experiment.empty()) throw UsageError("--attach needs --experiment");
  if (!options.attach.empty() && !options.fast_lane.empty()) {
    throw UsageError("--fast-lane goes with --listen; with --attach the trainer offers the lane");
  }
  return options;
}

sigset_t ending_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, number);
  return signals;
}

// Turns SIGTERM and SIGINT into a call on an ordinary thread, where locks are allowed. The signals must be
// blocked before any thread starts. SIGUSR1 is its own, to end the wait.
class SignalWatch {
 public:
  explicit SignalWatch(std::function<void()> on_signal)
      : thread_([on_signal = std::move(on_signal)] {
          const sigset_t signals = ending_signals();
          int number = 0;
          sigwait(&signals, &number);
          if (number != SIGUSR1) on_signal();
        }) {}
  ~SignalWatch() {
    pthread_kill(thread_.native_handle(), SIGUSR1);
    thread_.join();
  }
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  std::thread thread_;
};

int serve(const Options& options) {
  std::unique_ptr<sim::FastLaneServer> fast_lane;
  sim::SessionConfig config;
  config.lease_ms = options.lease_ms;
  if (!options.fast_lane.empty()) {
    fast_lane = std::make_unique<sim::FastLaneServer>(options.fast_lane);
    config.data_plane = fast_lane->address();
  }
  sim::CartPoleLanes lanes(options.lanes);
  sim::Session session(lanes, config);
  sim::EnvironmentService streams(session);
  sim::UnaryService unary(options.lanes);
  const sim::Listening listening = sim::start_server(options.listen, unary, streams);
  if (listening.server == nullptr) {
    std::cerr << "cannot listen on " << options.listen << std::endl;
    return 1;
  }
  if (fast_lane != nullptr) fast_lane->start(session);
  {
    const SignalWatch watch([&listening] {
      listening.server->Shutdown(std::chrono::system_clock::now() + kGraceAtShutdown);
    });
    const std::string host = options.listen.substr(0, options.listen.rfind(':'));
    std::cout << "simulator listening on " << host << ":" << listening.port << std::endl;
    listening.server->Wait();
  }
  fast_lane.reset();  // before the session it feeds
  return 0;
}

int attach(const Options& options) {
  sim::CartPoleLanes lanes(options.lanes);
  sim::SessionConfig config;
  config.experiment_id = options.experiment;
  config.lease_ms = options.lease_ms;
  config.guarded = false;
  sim::Session session(lanes, config);
  sim::Attachment attachment(session, options.attach, options.token);
  const SignalWatch watch([&attachment] { attachment.stop(); });
  return attachment.run();
}

}  // namespace

int main(int count, char** words) {
  signal(SIGPIPE, SIG_IGN);  // who started us may have stopped reading our output
  const sigset_t signals = ending_signals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  try {
    const Options options = parse(count, words);
    return options.attach.empty() ? serve(options) : attach(options);
  } catch (const UsageError& error) {
    std::cerr << error.what() << "\n" << kUsage;
    return kWrongUsage;
  } catch (const sim::SocketError& error) {
    std::cerr << error.what() << std::endl;
    return 1;
  }
}
