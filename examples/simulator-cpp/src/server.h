// The simulator listens: gRPC server for both contracts.
#pragma once

#include <memory>
#include <string>

#include <grpcpp/server.h>

#include "session.h"
#include "simulation/v2/simulation.grpc.pb.h"

namespace sim {

class EnvironmentService final : public v2::EnvironmentService::Service {
 public:
  explicit EnvironmentService(::sim::Session& session) : session_(session) {}

  grpc::Status Describe(grpc::ServerContext*, const v2::Hello* hello, v2::Contract* contract) override;
  grpc::Status Session(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<v2::FromEnv, v2::ToEnv>* stream) override;
  // Observe is not overridden: the generated base answers UNIMPLEMENTED.

 private:
  ::sim::Session& session_;
};

struct Listening {
  std::unique_ptr<grpc::Server> server;  // nullptr when the address cannot be had
  int port = 0;
};

Listening start_server(const std::string& address, grpc::Service& first, grpc::Service& second);

}  // namespace sim
