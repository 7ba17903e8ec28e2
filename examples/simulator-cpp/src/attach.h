// The simulator dials out: for one behind NAT, in a game engine, on a laptop.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include <grpcpp/client_context.h>

#include "frame_socket.h"
#include "session.h"
#include "simulation/v2/simulation.grpc.pb.h"

namespace sim {

class Attachment {
 public:
  // `token` is the attach_token that the trainer handed out.
  Attachment(Session& session, std::string address, std::string token);

  // Until the trainer closes the session or stop() is called (0), or the trainer refuses us (1).
  int run();
  void stop();

 private:
  enum class Outcome { kClosed, kRefused, kLost };
  using Stream = grpc::ClientReaderWriter<v2::FromEnv, v2::ToEnv>;

  Outcome attempt();
  Outcome converse(Stream& stream, Session::Link link);
  void open_fast_lane(const v2::Hello& hello);
  bool dial_fast_lane(const std::string& offer, const std::string& token);
  void close_fast_lane();
  void complain(const std::string& text);
  void end_politely(Stream& stream);
  grpc::Status finish(Stream& stream, Outcome outcome);
  bool enter(grpc::ClientContext& context);
  void leave();
  void cancel();

  Session& session_;
  const std::string address_;
  const std::string token_;
  bool admitted_ = false;  // by the latest attempt
  std::string complaint_;  // the last one told

  std::unique_ptr<FrameSocket> socket_;
  std::thread fast_lane_;

  std::mutex mutex_;
  std::condition_variable changed_;
  grpc::ClientContext* context_ = nullptr;  // of the running attempt
  bool stopped_ = false;
  bool closed_on_fast_lane_ = false;
};

}  // namespace sim
