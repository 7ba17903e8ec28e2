#include "weights.h"

#include <utility>

#include "payload.h"

namespace auxilium::internal {
namespace {

namespace v1 = ::auxilium::v1;

}  // namespace

Weights::Weights(std::shared_ptr<grpc::Channel> channel, std::string policy, Make make, Log log)
    : stub_(v1::PolicyService::NewStub(std::move(channel))),
      policy_(std::move(policy)),
      make_(std::move(make)),
      log_(std::move(log)),
      thread_([this] { run(); }) {}

Weights::~Weights() { stop(); }

void Weights::stop() {
  pauses_.close();
  stream_.cancel_for_good();
  if (thread_.joinable()) thread_.join();
}

bool Weights::wait_for(int version, Seconds timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto here = [&] {
    const auto held = now();
    return held && held->version >= version;
  };
  changed_.wait_for(lock, timeout, [&] { return here() || (unfit_ && !now()); });
  return here();
}

void Weights::check() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (unfit_) throw Refused(fault_);
}

std::string Weights::fault() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return fault_;
}

void Weights::run() {
  bool whole = false;  // a difference that fitted nothing: the next one is asked for whole
  while (!pauses_.closed()) {
    const std::shared_ptr<grpc::ClientContext> context = stream_.begin();
    if (!context) return;
    v1::WatchPolicyRequest request;
    request.set_policy(policy_);
    request.set_with_payload(true);
    request.set_format(v1::WatchPolicyRequest::FORMAT_SAFETENSORS);
    if (const auto held = now(); held && !whole) request.set_have_sha256(held->sha256);
    whole = false;
    const auto call = stub_->WatchPolicy(context.get(), request);
    v1::PolicyUpdate update;
    try {
      while (call->Read(&update)) {
        take(update);
        pauses_.reset();
      }
      const grpc::Status status = call->Finish();
      // Before its first version a policy is not found; whoever waits for it says how long.
      if (!status.ok() && !pauses_.closed()) note(text_of(status), false);
    } catch (const Refused& refused) {
      context->TryCancel();
      call->Finish();
      note(refused.what(), true);
    } catch (const std::exception& damaged) {
      context->TryCancel();
      call->Finish();
      whole = true;
      note(damaged.what(), false);
    }
    pauses_.wait();
  }
}

void Weights::take(const v1::PolicyUpdate& update) {
  const auto before = now();
  std::string weights = unpack_payload(update.graph(), before ? before->weights : "");
  Sampler sampler = make_(update.description(), weights);
  auto held = std::make_shared<const Held>(
      Held{update.version().version(), update.version().sha256(), std::move(weights), std::move(sampler)});
  std::atomic_store(&held_, std::shared_ptr<const Held>(std::move(held)));
  const std::lock_guard<std::mutex> lock(mutex_);
  fault_.clear();
  unfit_ = false;
  changed_.notify_all();
}

void Weights::note(const std::string& fault, bool final) {
  bool fresh = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    fresh = fault != fault_;
    fault_ = fault;
    unfit_ = final;
    changed_.notify_all();
  }
  if (fresh && now()) log_("no newer version: " + fault);
}

}  // namespace auxilium::internal
