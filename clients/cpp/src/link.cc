#include "link.h"

#include <utility>

namespace auxilium::internal {
namespace {

namespace v1 = ::auxilium::v1;

}  // namespace

Link::Link(std::shared_ptr<grpc::Channel> channel, Join join, Outbox& outbox, std::function<void()> on_end, Log log)
    : stub_(v1::ExperienceService::NewStub(std::move(channel))),
      join_(std::move(join)),
      outbox_(outbox),
      on_end_(std::move(on_end)),
      log_(std::move(log)),
      thread_([this] { run(); }) {}

Link::~Link() { stop(); }

void Link::stop() {
  pauses_.close();
  stream_.cancel_for_good();
  outbox_.wake();
  if (thread_.joinable()) thread_.join();
}

Link::Welcome Link::wait_for_welcome(Seconds timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait_for(lock, timeout, [this] { return welcome_ || final_ || ended_; });
  if (welcome_) return *welcome_;
  if (ended_) throw Refused("run '" + join_.run_id() + "' has ended; it takes no more experience");
  if (final_ && code_ == grpc::StatusCode::INVALID_ARGUMENT) throw InvalidArgument("join", fault_);
  if (final_) throw Refused(fault_);
  throw TimedOut("no server took the agent in: " + (fault_.empty() ? "nothing was heard" : fault_));
}

std::string Link::fault() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return fault_;
}

void Link::run() {
  while (!pauses_.closed() && !unheard()) {
    const grpc::Status status = connect();
    if (!status.ok()) failed(status);
    if (outbox_.closed() && outbox_.steps() == 0) break;
    if (!unheard()) pauses_.wait();
  }
  if (unheard()) on_end_();
  outbox_.wake();
}

// One connection, until it is gone. A second thread sends; this one hears what became of it.
grpc::Status Link::connect() {
  const std::shared_ptr<grpc::ClientContext> context = stream_.begin();
  if (!context) return grpc::Status::OK;
  const auto call = stub_->Push(context.get());
  v1::PushRequest request;
  *request.mutable_join() = join_;
  request.mutable_join()->set_next_seq(outbox_.oldest());
  v1::PushResponse response;
  call->Write(request);  // where that fails the status says why
  if (!call->Read(&response)) return call->Finish();
  if (!response.has_welcome()) {
    context->TryCancel();
    call->Finish();
    return {grpc::StatusCode::INTERNAL, "the server's first word was no welcome"};
  }
  outbox_.begin(response.welcome().durable_seq());
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    welcome_ = response.welcome();
    fault_.clear();
    told_ = grpc::StatusCode::OK;
    changed_.notify_all();
  }
  pauses_.reset();

  std::atomic<bool> gone{false};
  std::thread sending([&] {
    v1::PushRequest chunk;
    while (const auto next = outbox_.next(gone)) {
      *chunk.mutable_chunk() = *next;
      if (!call->Write(chunk)) return;
    }
    if (!gone) call->WritesDone();
  });
  while (!ended_ && call->Read(&response)) take(response);
  gone = true;
  outbox_.wake();
  if (ended_) context->TryCancel();
  sending.join();
  const grpc::Status status = call->Finish();
  return ended_ ? grpc::Status::OK : status;
}

void Link::take(const v1::PushResponse& response) {
  if (response.has_ended()) {
    ended_ = true;
    log_("the run has ended: " + v1::RunState_Name(response.ended().state()));
    return;
  }
  for (const v1::Rejected& one : response.receipt().rejected()) {
    outbox_.refused(one.seq());
    log_("chunk " + std::to_string(one.seq()) + " was put aside: " + one.field() + ": " + one.reason());
  }
  outbox_.stored(response.receipt().durable_seq());
}

void Link::failed(const grpc::Status& status) {
  const bool over = reason_of(status) == "RUN_ENDED";
  const bool final = !over && is_final(status);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    fault_ = text_of(status);
    code_ = status.error_code();
    ended_ = over;
    final_ = final;
    changed_.notify_all();
  }
  if (!pauses_.closed() && !over && (final || status.error_code() != told_)) {
    log_(std::string(final ? "refused: " : "not connected: ") + text_of(status));
  }
  told_ = status.error_code();
}

}  // namespace auxilium::internal
