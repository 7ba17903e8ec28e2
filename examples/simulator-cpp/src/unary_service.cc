#include "unary_service.h"

namespace sim {
namespace {

grpc::Status unknown(const std::string& gym_id) {
  return grpc::Status(grpc::StatusCode::NOT_FOUND, "no gym \"" + gym_id + "\"");
}

template <typename Response>
void put_observation(const CartPole& cartpole, Response& response) {
  const Observation observation = cartpole.observation();
  response.mutable_observation()->Add(observation.begin(), observation.end());
}

}  // namespace

UnaryService::UnaryService(std::uint32_t gyms) {
  for (std::uint32_t i = 0; i < gyms; ++i) gyms_["lane-" + std::to_string(i)];
}

UnaryService::Gym* UnaryService::find(const std::string& gym_id) {
  const auto found = gyms_.find(gym_id);
  return found == gyms_.end() ? nullptr : &found->second;
}

grpc::Status UnaryService::Reset(grpc::ServerContext*, const ::simulation::ResetRequest* request,
                                 ::simulation::ResetResponse* response) {
  Gym* gym = find(request->gym_id());
  if (gym == nullptr) return unknown(request->gym_id());
  const std::lock_guard<std::mutex> lock(gym->mutex);
  // By way of 32 bits: a negative seed must not become another one than the same bits unsigned.
  if (request->seed() != 0) gym->cartpole.seed(static_cast<std::uint32_t>(request->seed()));
  gym->cartpole.reset();
  gym->open = true;
  put_observation(gym->cartpole, *response);
  return grpc::Status::OK;
}

grpc::Status UnaryService::Step(grpc::ServerContext*, const ::simulation::StepRequest* request,
                                ::simulation::StepResponse* response) {
  Gym* gym = find(request->gym_id());
  if (gym == nullptr) return unknown(request->gym_id());
  const std::lock_guard<std::mutex> lock(gym->mutex);
  if (!gym->open || !gym->cartpole.running()) {
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                        "gym \"" + request->gym_id() + "\" has no running episode: call Reset first");
  }
  if (request->action() < 0 || request->action() >= kActions) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                        "action: given " + std::to_string(request->action()) + ", expected 0 or 1");
  }
  const StepResult result = gym->cartpole.step(request->action());
  put_observation(gym->cartpole, *response);
  response->set_reward(result.reward);
  response->set_terminated(result.terminated);
  response->set_truncated(result.truncated);
  return grpc::Status::OK;
}

// The gym stays known: the next run resets it.
grpc::Status UnaryService::Close(grpc::ServerContext*, const ::simulation::CloseRequest* request,
                                 ::simulation::CloseResponse* response) {
  Gym* gym = find(request->gym_id());
  if (gym == nullptr) return unknown(request->gym_id());
  const std::lock_guard<std::mutex> lock(gym->mutex);
  gym->open = false;
  response->set_success(true);
  response->set_message("closed");
  return grpc::Status::OK;
}

}  // namespace sim
