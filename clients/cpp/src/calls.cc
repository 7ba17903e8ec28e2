#include "calls.h"

#include <algorithm>

#include "status.pb.h"

namespace auxilium::internal {
namespace {

constexpr int kMessageLimit = 256 << 20;
constexpr int kReconnectMs = 200;

}  // namespace

std::shared_ptr<grpc::Channel> channel_to(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageLimit);
  arguments.SetMaxSendMessageSize(kMessageLimit);
  // The pauses are ours; gRPC's own would add to them.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMs);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

std::string reason_of(const grpc::Status& status) {
  ::auxilium::client::Status told;
  if (!told.ParseFromString(status.error_details())) return "";
  for (const auto& detail : told.details()) {
    ::auxilium::client::ErrorInfo info;
    const std::string& url = detail.type_url();
    const std::string kind = "google.rpc.ErrorInfo";
    const bool fits = url.size() > kind.size() && url.compare(url.size() - kind.size(), kind.size(), kind) == 0;
    if (fits && info.ParseFromString(detail.value())) return info.reason();
  }
  return "";
}

bool is_final(const grpc::Status& status) {
  switch (status.error_code()) {
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::DATA_LOSS:
    case grpc::StatusCode::UNIMPLEMENTED:
      return true;
    case grpc::StatusCode::FAILED_PRECONDITION:
      return reason_of(status) != "CHUNK_OUT_OF_ORDER";
    default:
      return false;
  }
}

std::string text_of(const grpc::Status& status) {
  const std::string reason = reason_of(status);
  return status.error_message() + (reason.empty() ? "" : " (" + reason + ")");
}

void Pauses::reset() {
  const std::lock_guard<std::mutex> lock(mutex_);
  next_ = kFirst;
}

void Pauses::wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, next_, [this] { return closed_; });
  next_ = std::min(2 * next_, longest_);
}

void Pauses::close() {
  const std::lock_guard<std::mutex> lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

bool Pauses::closed() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return closed_;
}

std::shared_ptr<grpc::ClientContext> Stream::begin() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cancelled_) return nullptr;
  context_ = std::make_shared<grpc::ClientContext>();
  return context_;
}

void Stream::cancel_for_good() {
  const std::lock_guard<std::mutex> lock(mutex_);
  cancelled_ = true;
  if (context_) context_->TryCancel();
}

}  // namespace auxilium::internal
