#include "frame_socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace sim {
namespace {

constexpr std::size_t kHeader = 4;
constexpr std::size_t kFirstBuffer = 16U << 10;

[[noreturn]] void fail(const std::string& what) { throw SocketError(what + ": " + std::strerror(errno)); }

union AnyAddress {
  sockaddr any;
  sockaddr_in tcp;
  sockaddr_un local;
};

socklen_t fill_address(const LaneAddress& address, AnyAddress& out) {
  std::memset(&out, 0, sizeof out);
  if (address.path.empty()) {
    out.tcp.sin_family = AF_INET;
    out.tcp.sin_port = htons(address.port);
    inet_pton(AF_INET, address.host.c_str(), &out.tcp.sin_addr);
    return sizeof out.tcp;
  }
  out.local.sun_family = AF_UNIX;
  std::memcpy(out.local.sun_path, address.path.c_str(), address.path.size() + 1);
  return sizeof out.local;
}

int open_socket(const LaneAddress& address) {
  const int descriptor = ::socket(address.path.empty() ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) fail("socket");
  return descriptor;
}

// A socket file outlives a process that was killed. It is in the way only if nobody answers behind it.
void remove_stale(const LaneAddress& address) {
  struct stat found {};
  if (::lstat(address.path.c_str(), &found) != 0 || !S_ISSOCK(found.st_mode)) return;
  try {
    ::close(dial(address));
  } catch (const SocketError&) {
    ::unlink(address.path.c_str());
  }
}

std::string parse_tcp(const std::string& rest, std::uint16_t& port) {
  const std::size_t colon = rest.rfind(':');
  std::string host = rest.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  in_addr parsed{};
  const bool loopback = inet_pton(AF_INET, host.c_str(), &parsed) == 1 && (ntohl(parsed.s_addr) >> 24) == 127;
  if (!loopback) throw SocketError("a fast lane must be on loopback (127.0.0.1), given tcp://" + rest);
  const char* begin = colon == std::string::npos ? nullptr : rest.data() + colon + 1;
  const char* end = rest.data() + rest.size();
  const auto result = std::from_chars(begin, begin == nullptr ? begin : end, port);
  if (begin == nullptr || result.ec != std::errc() || result.ptr != end) {
    throw SocketError("a fast lane needs a port, given tcp://" + rest);
  }
  return host;
}

}  // namespace

LaneAddress::LaneAddress(const std::string& text) {
  if (text.rfind("tcp://", 0) == 0) {
    host = parse_tcp(text.substr(6), port);
    return;
  }
  if (text.rfind("unix:///", 0) != 0) {
    throw SocketError("a fast lane is unix:///PATH or tcp://127.0.0.1:PORT, given " + text);
  }
  path = text.substr(7);
  if (path.size() >= sizeof(sockaddr_un::sun_path)) throw SocketError("the socket's path is too long: " + path);
}

int listen_on(LaneAddress& address) {
  if (!address.path.empty()) remove_stale(address);
  const int descriptor = open_socket(address);
  const int on = 1;
  if (address.path.empty()) ::setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  AnyAddress raw;
  socklen_t size = fill_address(address, raw);
  // The file's rights are narrowed before listen(), so nobody else can have connected by then.
  const bool bound = ::bind(descriptor, &raw.any, size) == 0 &&
                     (address.path.empty() || ::chmod(address.path.c_str(), 0600) == 0) &&
                     ::listen(descriptor, 16) == 0;
  if (!bound) {
    const int error = errno;
    ::close(descriptor);
    errno = error;
    fail("cannot listen on " + (address.path.empty() ? address.host : address.path));
  }
  if (address.path.empty() && ::getsockname(descriptor, &raw.any, &size) == 0) address.port = ntohs(raw.tcp.sin_port);
  return descriptor;
}

int dial(const LaneAddress& address) {
  const int descriptor = open_socket(address);
  AnyAddress raw;
  const socklen_t size = fill_address(address, raw);
  if (::connect(descriptor, &raw.any, size) != 0) {
    const int error = errno;
    ::close(descriptor);
    errno = error;
    fail("cannot connect to " + (address.path.empty() ? address.host : address.path));
  }
  return descriptor;
}

FrameSocket::FrameSocket(int descriptor) : descriptor_(descriptor), received_(kFirstBuffer) {
  const int on = 1;
  // Fails on a Unix socket, which has nothing to delay.
  ::setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

FrameSocket::~FrameSocket() { ::close(descriptor_); }

void FrameSocket::hang_up() { ::shutdown(descriptor_, SHUT_RDWR); }

void FrameSocket::set_read_timeout(int seconds) {
  timeval limit{};
  limit.tv_sec = seconds;
  ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

// Reads until `wanted` bytes lie ready. Memory grows with what came, not with what the length promised.
bool FrameSocket::fill(std::size_t wanted) {
  while (end_ - begin_ < wanted) {
    std::memmove(received_.data(), received_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
    if (end_ == received_.size()) received_.resize(2 * received_.size());
    const ssize_t count = ::recv(descriptor_, received_.data() + end_, received_.size() - end_, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    end_ += static_cast<std::size_t>(count);
  }
  return true;
}

bool FrameSocket::read(std::string& frame, std::size_t limit) {
  if (!fill(kHeader)) return false;
  std::uint32_t length = 0;
  for (std::size_t i = 0; i < kHeader; ++i) {
    length |= static_cast<std::uint32_t>(static_cast<unsigned char>(received_[begin_ + i])) << (8 * i);
  }
  if (length == 0 || length > limit || !fill(kHeader + length)) return false;
  frame.assign(received_.data() + begin_ + kHeader, length);
  begin_ += kHeader + length;
  return true;
}

bool FrameSocket::write(const std::string& frame) {
  if (frame.size() > kFrameLimit) return false;
  outgoing_.clear();
  for (std::size_t i = 0; i < kHeader; ++i) outgoing_.push_back(static_cast<char>(frame.size() >> (8 * i)));
  outgoing_ += frame;
  for (std::size_t sent = 0; sent < outgoing_.size();) {
    const ssize_t count = ::send(descriptor_, outgoing_.data() + sent, outgoing_.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    sent += static_cast<std::size_t>(count);
  }
  return true;
}

}  // namespace sim
