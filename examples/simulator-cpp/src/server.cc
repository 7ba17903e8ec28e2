#include "server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

namespace sim {
namespace {

constexpr int kMessageLimit = 64 << 20;
constexpr int kKeepaliveMs = 20000;
constexpr int kShortestClientPingMs = 5000;

}  // namespace

grpc::Status EnvironmentService::Describe(grpc::ServerContext*, const v2::Hello* hello, v2::Contract* contract) {
  return session_.describe(*hello, *contract);
}

grpc::Status EnvironmentService::Session(grpc::ServerContext* context,
                                         grpc::ServerReaderWriter<v2::FromEnv, v2::ToEnv>* stream) {
  const auto link = session_.connect(::sim::Session::Kind::kStream, [context] { context->TryCancel(); });
  grpc::Status status;
  v2::ToEnv message;
  while (stream->Read(&message)) {
    const Reply reply = session_.handle(link, message);
    status = reply.status;
    if (!status.ok() || !stream->Write(reply.answer)) break;
  }
  session_.disconnect(link);
  return status;
}

Listening start_server(const std::string& address, grpc::Service& first, grpc::Service& second) {
  grpc::ServerBuilder builder;
  Listening listening;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &listening.port);
  builder.RegisterService(&first);
  builder.RegisterService(&second);
  builder.SetMaxReceiveMessageSize(kMessageLimit);
  builder.SetMaxSendMessageSize(kMessageLimit);
  // Otherwise two simulators could share a port and take turns at answering.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // A trainer whose machine vanished sends no farewell; without our pings its session would never be free again.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // The default takes a trainer that pings more often than every five minutes for an attacker.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kShortestClientPingMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  listening.server = builder.BuildAndStart();
  return listening;
}

}  // namespace sim
