// A socket that carries frames: a uint32 little-endian length, then that many bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace sim {

inline constexpr std::size_t kFrameLimit = 64U << 20;

// Says in plain words what was wrong with an address or a socket.
struct SocketError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// "unix:///path" or "tcp://127.0.0.1:PORT". Throws SocketError for anything else: a fast lane has neither
// encryption nor users, so it must not leave the machine.
struct LaneAddress {
  explicit LaneAddress(const std::string& text);

  std::string path;  // of a Unix socket; empty for TCP
  std::string host;
  std::uint16_t port = 0;
};

// Both return a descriptor or throw SocketError. listen_on() puts the port it got into `address`.
int listen_on(LaneAddress& address);
int dial(const LaneAddress& address);

class FrameSocket {
 public:
  explicit FrameSocket(int descriptor);
  ~FrameSocket();
  FrameSocket(const FrameSocket&) = delete;
  FrameSocket& operator=(const FrameSocket&) = delete;

  // False when the socket is gone or the length is 0 or above the limit, which is checked before memory is taken.
  bool read(std::string& frame, std::size_t limit = kFrameLimit);
  bool write(const std::string& frame);
  // Wakes a reader in another thread; the descriptor stays ours until the destructor.
  void hang_up();
  // 0: wait for ever.
  void set_read_timeout(int seconds);

 private:
  bool fill(std::size_t wanted);

  const int descriptor_;
  std::vector<char> received_;  // what lies between begin_ and end_ was read but not yet handed out
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::string outgoing_;
};

}  // namespace sim
