// The session's messages over a plain socket on the same machine, for those to whom gRPC's overhead matters.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <string>
#include <thread>

#include "frame_socket.h"
#include "session.h"

namespace sim {

// Answers frames until the socket is gone, a frame is no message, or the session refuses one.
// True when the last answer was Closed.
bool serve_frames(FrameSocket& socket, Session& session, Session::Link link);

// The trainer opens the socket: used when we serve.
class FastLaneServer {
 public:
  // Listens at once, so that address() is known before the session is made.
  explicit FastLaneServer(const std::string& address);
  ~FastLaneServer();
  FastLaneServer(const FastLaneServer&) = delete;
  FastLaneServer& operator=(const FastLaneServer&) = delete;

  std::string address() const;
  void start(Session& session);

 private:
  struct Connection {
    explicit Connection(int descriptor) : socket(descriptor) {}
    FrameSocket socket;
    std::thread thread;
    std::atomic<bool> done{false};
  };

  void accept_until_stopped(Session& session);
  void forget_finished();

  LaneAddress address_;
  const int descriptor_;
  std::atomic<bool> stopping_{false};
  std::thread acceptor_;
  std::list<Connection> connections_;  // the acceptor's, until it has ended
};

}  // namespace sim
