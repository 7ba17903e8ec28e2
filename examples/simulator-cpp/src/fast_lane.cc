#include "fast_lane.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace sim {
namespace {

constexpr int kLookForStopMs = 100;
constexpr int kHelloSeconds = 10;
// A stranger may send one hello, which is small; the full limit is for those who have shown the token.
constexpr std::size_t kHelloLimit = 1U << 20;
constexpr std::size_t kConnections = 32;

bool answer_frame(FrameSocket& socket, Session& session, Session::Link link, std::string& frame, bool& ended) {
  v2::ToEnv message;
  if (!message.ParseFromString(frame)) return false;
  const Reply reply = session.handle(link, message);
  if (!reply.status.ok()) return false;
  reply.answer.SerializeToString(&frame);
  ended = reply.ended;
  return socket.write(frame) && !ended;
}

}  // namespace

bool serve_frames(FrameSocket& socket, Session& session, Session::Link link) {
  std::string frame;
  bool ended = false;
  while (socket.read(frame) && answer_frame(socket, session, link, frame, ended)) {
  }
  return ended;
}

FastLaneServer::FastLaneServer(const std::string& address) : address_(address), descriptor_(listen_on(address_)) {}

FastLaneServer::~FastLaneServer() {
  stopping_ = true;
  if (acceptor_.joinable()) acceptor_.join();
  for (Connection& connection : connections_) connection.socket.hang_up();
  for (Connection& connection : connections_) connection.thread.join();
  ::close(descriptor_);
  if (!address_.path.empty()) ::unlink(address_.path.c_str());
}

std::string FastLaneServer::address() const {
  if (!address_.path.empty()) return "unix://" + address_.path;
  return "tcp://" + address_.host + ":" + std::to_string(address_.port);
}

void FastLaneServer::start(Session& session) {
  acceptor_ = std::thread([this, &session] { accept_until_stopped(session); });
}

void FastLaneServer::forget_finished() {
  for (auto connection = connections_.begin(); connection != connections_.end();) {
    if (!connection->done) {
      ++connection;
      continue;
    }
    connection->thread.join();
    connection = connections_.erase(connection);
  }
}

void FastLaneServer::accept_until_stopped(Session& session) {
  while (!stopping_) {
    pollfd waiting{descriptor_, POLLIN, 0};
    const bool ready = ::poll(&waiting, 1, kLookForStopMs) == 1;
    forget_finished();
    if (!ready) continue;
    const int descriptor = ::accept4(descriptor_, nullptr, nullptr, SOCK_CLOEXEC);
    if (descriptor < 0) continue;
    if (connections_.size() >= kConnections) {
      ::close(descriptor);
      continue;
    }
    Connection& connection = connections_.emplace_back(descriptor);
    connection.thread = std::thread([&connection, &session] {
      FrameSocket& socket = connection.socket;
      const Session::Link link = session.connect(Session::Kind::kFastLane, [&socket] { socket.hang_up(); });
      socket.set_read_timeout(kHelloSeconds);
      std::string frame;
      bool ended = false;
      if (socket.read(frame, kHelloLimit) && answer_frame(socket, session, link, frame, ended)) {
        socket.set_read_timeout(0);
        serve_frames(socket, session, link);
      }
      session.disconnect(link);
      socket.hang_up();
      connection.done = true;
    });
  }
}

}  // namespace sim
