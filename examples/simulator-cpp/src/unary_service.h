// The first contract, simulation.SimulationService: one call for each step of one gym.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "cartpole.h"
#include "simulation.grpc.pb.h"

namespace sim {

// Its gyms are its own: a run over this contract and a session of the other do not disturb each other.
class UnaryService final : public ::simulation::SimulationService::Service {
 public:
  explicit UnaryService(std::uint32_t gyms);

  grpc::Status Reset(grpc::ServerContext*, const ::simulation::ResetRequest* request,
                     ::simulation::ResetResponse* response) override;
  grpc::Status Step(grpc::ServerContext*, const ::simulation::StepRequest* request,
                    ::simulation::StepResponse* response) override;
  grpc::Status Close(grpc::ServerContext*, const ::simulation::CloseRequest* request,
                     ::simulation::CloseResponse* response) override;

 private:
  struct Gym {
    std::mutex mutex;
    CartPole cartpole;
    bool open = false;  // between Reset and Close
  };

  // nullptr when there is none; the map never changes, so a gym's own mutex is enough.
  Gym* find(const std::string& gym_id);

  std::map<std::string, Gym> gyms_;
};

}  // namespace sim
