// The protocol's state machine, the same for a served stream, a dialled one and a fast lane.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>

#include <grpcpp/support/status.h>

#include "environment.h"

namespace sim {

struct SessionConfig {
  std::string data_plane;        // address of our fast lane; empty: none
  std::string experiment_id;     // put into the contract when we dial out
  std::uint32_t lease_ms = 60000;
  // Served: whoever comes second is turned away. Dialled: there is one trainer, and its word holds.
  bool guarded = true;
};

struct Reply {
  grpc::Status status;  // not OK: the stream or socket ends with it and there is no answer
  v2::FromEnv answer;
  bool ended = false;   // the answer is Closed
};

class Session {
 public:
  enum class Kind { kStream, kFastLane };
  using Link = std::uint64_t;
  using HangUp = std::function<void()>;

  Session(Environment& environment, SessionConfig config);

  // Every stream and socket registers before its first message. `hang_up` makes the link's reader return; it
  // may be called from any thread until disconnect() has returned. `admitted`: no hello is needed any more.
  Link connect(Kind kind, HangUp hang_up, bool admitted = false);
  void disconnect(Link link);
  Reply handle(Link link, const v2::ToEnv& message);

  // The contract without a session's secrets, for Describe.
  grpc::Status describe(const v2::Hello& hello, v2::Contract& contract) const;
  // What the dialling side sends first: who we are and, when coming back, which session we still hold.
  v2::FromEnv greeting();

 private:
  struct Peer {
    Kind kind;
    HangUp hang_up;
    bool admitted;
  };

  Reply open(Link link, const v2::ToEnv& message);
  Reply join(Peer& peer, const v2::ToEnv& message);
  Reply answer(const v2::ToEnv& message);
  void execute(const v2::ToEnv& message, Reply& reply);
  void carry_out(const v2::ToEnv& message, Reply& reply);
  void begin(const v2::Hello& hello);
  // Takes a new name and token.
  void rename();
  bool taken() const;
  v2::Contract offer(const v2::Hello& hello) const;
  void hang_up_others(Link link, bool streams_too);
  v2::Contract contract() const;
  std::string lease_text() const;

  Environment& environment_;
  const SessionConfig config_;

  // Who is connected. Never held while the environment works: pings must be answered during a long step.
  std::mutex peers_mutex_;
  std::map<Link, Peer> peers_;
  Link next_link_ = 1;
  Link owner_ = 0;  // the stream that holds the session; 0 while disconnected
  std::chrono::steady_clock::time_point lease_end_;

  // The one session. Its mutex is taken before the other one and held while a request is carried out.
  std::mutex work_mutex_;
  bool live_ = false;  // between hello and Close
  v2::Contract agreed_;
  std::string session_id_;
  std::string resume_token_;
  std::string data_plane_token_;
  std::uint64_t last_seq_ = 0;
  std::string last_answer_;  // serialised: a replay is what was sent then, env_ns included
};

}  // namespace sim
