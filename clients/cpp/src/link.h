// The connection that carries chunks up: it comes back by itself, and sends again what was not stored.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <thread>

#include "auxilium/agent.h"
#include "auxilium/v1/experience.grpc.pb.h"
#include "calls.h"
#include "outbox.h"

namespace auxilium::internal {

class Link {
 public:
  using Join = ::auxilium::v1::Join;
  using Welcome = ::auxilium::v1::Welcome;

  // `join`: what is said first, but for next_seq. `on_end`: called when nothing more will be taken.
  Link(std::shared_ptr<grpc::Channel> channel, Join join, Outbox& outbox, std::function<void()> on_end, Log log);
  ~Link();
  // Hang up.
  void stop();

  // Throws TimedOut, InvalidArgument or Refused: what the server has against this agent.
  Welcome wait_for_welcome(Seconds timeout);
  // The run takes no more.
  bool ended() const { return ended_; }
  // Nothing more will be taken from this agent: the run has ended, or the server refused it for good.
  bool unheard() const { return ended_ || final_; }
  // Why there is no connection; empty: there is one.
  std::string fault() const;

 private:
  void run();
  grpc::Status connect();
  void take(const ::auxilium::v1::PushResponse& response);
  void failed(const grpc::Status& status);

  std::unique_ptr<::auxilium::v1::ExperienceService::Stub> stub_;
  Join join_;
  Outbox& outbox_;
  std::function<void()> on_end_;
  Log log_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Welcome> welcome_;
  std::string fault_;
  grpc::StatusCode told_ = grpc::StatusCode::OK;
  grpc::StatusCode code_ = grpc::StatusCode::OK;
  std::atomic<bool> ended_{false};
  std::atomic<bool> final_{false};
  Pauses pauses_{std::chrono::milliseconds(2000)};
  Stream stream_;
  std::thread thread_;
};

}  // namespace auxilium::internal
