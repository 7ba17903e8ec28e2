#include "attach.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <iostream>
#include <utility>

#include "fast_lane.h"

namespace sim {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kFirstPause{100};
constexpr milliseconds kLongestPause{2000};
constexpr milliseconds kFarewell{1000};
constexpr int kMessageLimit = 64 << 20;
// A trainer whose machine vanished says no farewell. Servers take more than one ping in five minutes for an attack.
constexpr int kKeepaliveMs = 310'000;
constexpr int kKeepaliveTimeoutMs = 20'000;

std::shared_ptr<grpc::Channel> make_channel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageLimit);
  arguments.SetMaxSendMessageSize(kMessageLimit);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // The pauses are ours: with a shared pool a new channel would inherit gRPC's own back-off.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// To ask again would get the same answer.
bool is_final(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::UNAUTHENTICATED:
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::INVALID_ARGUMENT:
    case grpc::StatusCode::FAILED_PRECONDITION:
    case grpc::StatusCode::NOT_FOUND:
    case grpc::StatusCode::UNIMPLEMENTED:
      return true;
    default:
      return false;
  }
}

// What the trainer said before it ended the stream comes before the status.
void drain(grpc::ClientReaderWriter<v2::FromEnv, v2::ToEnv>& stream) {
  v2::ToEnv ignored;
  while (stream.Read(&ignored)) {
  }
}

}  // namespace

Attachment::Attachment(Session& session, std::string address, std::string token)
    : session_(session), address_(std::move(address)), token_(std::move(token)) {}

int Attachment::run() {
  milliseconds pause = kFirstPause;
  for (;;) {
    const Outcome outcome = attempt();
    if (outcome == Outcome::kClosed) return 0;
    std::unique_lock<std::mutex> lock(mutex_);
    if (stopped_) return 0;
    if (outcome == Outcome::kRefused) return 1;
    if (admitted_) pause = kFirstPause;
    if (changed_.wait_for(lock, pause, [this] { return stopped_; })) return 0;
    pause = std::min(2 * pause, kLongestPause);
  }
}

void Attachment::stop() {
  const std::lock_guard<std::mutex> lock(mutex_);
  stopped_ = true;
  if (context_ != nullptr) context_->TryCancel();
  changed_.notify_all();
}

bool Attachment::enter(grpc::ClientContext& context) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!stopped_) context_ = &context;
  closed_on_fast_lane_ = false;
  return !stopped_;
}

void Attachment::leave() {
  const std::lock_guard<std::mutex> lock(mutex_);
  context_ = nullptr;
}

void Attachment::cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (context_ != nullptr) context_->TryCancel();
}

Attachment::Outcome Attachment::attempt() {
  admitted_ = false;
  const auto stub = v2::EnvironmentGateway::NewStub(make_channel(address_));
  grpc::ClientContext context;
  if (!enter(context)) return Outcome::kLost;
  const auto stream = stub->Attach(&context);
  const Session::Link link = session_.connect(Session::Kind::kStream, [this] { cancel(); });

  v2::FromEnv first = session_.greeting();
  first.mutable_contract()->set_attach_token(token_);
  const Outcome outcome = stream->Write(first) ? converse(*stream, link) : Outcome::kLost;

  session_.disconnect(link);
  close_fast_lane();
  const grpc::Status status = finish(*stream, outcome);
  leave();
  if (outcome == Outcome::kLost && closed_on_fast_lane_) return Outcome::kClosed;
  if (outcome != Outcome::kLost) return outcome;
  complain(status.ok() ? "the trainer ended the stream" : status.error_message());
  return is_final(status.error_code()) ? Outcome::kRefused : Outcome::kLost;
}

// Once, not at every attempt; and not when we hung up ourselves.
void Attachment::complain(const std::string& text) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (stopped_ || text == complaint_) return;
  complaint_ = text;
  std::cerr << "attach: " << text << std::endl;
}

Attachment::Outcome Attachment::converse(Stream& stream, Session::Link link) {
  v2::ToEnv message;
  while (stream.Read(&message)) {
    const Reply reply = session_.handle(link, message);
    if (!reply.status.ok()) {
      complain(reply.status.error_message());
      return Outcome::kRefused;
    }
    const bool sent = stream.Write(reply.answer);
    if (reply.ended) return Outcome::kClosed;
    if (!sent) break;
    if (message.has_hello()) {
      admitted_ = true;
      complaint_.clear();
      std::cout << "attached to " << address_ << " as " << reply.answer.contract().session_id() << std::endl;
      close_fast_lane();
      open_fast_lane(message.hello());
    }
  }
  return Outcome::kLost;
}

// A lane that cannot be opened is no loss: the stream carries the same messages.
void Attachment::open_fast_lane(const v2::Hello& hello) {
  for (const std::string& offer : hello.data_plane()) {
    try {
      if (dial_fast_lane(offer, hello.data_plane_token())) return;
    } catch (const SocketError& error) {
      complain("fast lane " + offer + ": " + error.what());
    }
  }
}

bool Attachment::dial_fast_lane(const std::string& offer, const std::string& token) {
  socket_ = std::make_unique<FrameSocket>(dial(LaneAddress(offer)));
  v2::FromEnv first = session_.greeting();
  first.mutable_contract()->set_data_plane_token(token);
  if (!socket_->write(first.SerializeAsString())) return false;
  const Session::Link link =
      session_.connect(Session::Kind::kFastLane, [this] { socket_->hang_up(); }, /*admitted=*/true);
  fast_lane_ = std::thread([this, link] {
    const bool ended = serve_frames(*socket_, session_, link);
    session_.disconnect(link);
    socket_->hang_up();
    if (!ended) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_on_fast_lane_ = true;
    if (context_ != nullptr) context_->TryCancel();
  });
  return true;
}

void Attachment::close_fast_lane() {
  if (!fast_lane_.joinable()) return;
  socket_->hang_up();
  fast_lane_.join();
  socket_.reset();
}

// Closed must reach the trainer, so the stream is half-closed and the trainer may end it; but not for ever.
void Attachment::end_politely(Stream& stream) {
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  std::thread patience([&] {
    std::unique_lock<std::mutex> lock(mutex);
    if (!ended.wait_for(lock, kFarewell, [&] { return done; })) cancel();
  });
  stream.WritesDone();
  drain(stream);
  {
    const std::lock_guard<std::mutex> lock(mutex);
    done = true;
  }
  ended.notify_all();
  patience.join();
}

grpc::Status Attachment::finish(Stream& stream, Outcome outcome) {
  if (outcome == Outcome::kClosed) end_politely(stream);
  if (outcome == Outcome::kRefused) cancel();
  if (outcome == Outcome::kLost) drain(stream);
  return stream.Finish();
}

}  // namespace sim
