// What every call to the server shares.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

namespace auxilium::internal {

using Log = std::function<void(const std::string&)>;

std::shared_ptr<grpc::Channel> channel_to(const std::string& address);

// The server's constant word for why (google.rpc.ErrorInfo); empty: it gave none.
std::string reason_of(const grpc::Status& status);

// To ask again would get the same answer.
bool is_final(const grpc::Status& status);

// As people read it.
std::string text_of(const grpc::Status& status);

// Pauses between attempts, from a tenth of a second to `longest`; ends at once when it is closed.
class Pauses {
 public:
  explicit Pauses(std::chrono::milliseconds longest) : longest_(longest) {}

  void reset();
  void wait();
  void close();
  bool closed() const;

 private:
  static constexpr std::chrono::milliseconds kFirst{100};

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::chrono::milliseconds longest_;
  std::chrono::milliseconds next_ = kFirst;
  bool closed_ = false;
};

// The context of a stream that another thread may cancel, whenever it begins.
class Stream {
 public:
  // Null: it was cancelled for good.
  std::shared_ptr<grpc::ClientContext> begin();
  void cancel_for_good();

 private:
  std::mutex mutex_;
  std::shared_ptr<grpc::ClientContext> context_;
  bool cancelled_ = false;
};

}  // namespace auxilium::internal
