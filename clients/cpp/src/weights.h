// The newest version of a policy: a thread follows the server, makes the new one ready aside, then swaps one pointer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "auxilium/agent.h"
#include "auxilium/v1/policies.grpc.pb.h"
#include "calls.h"
#include "sampler.h"

namespace auxilium::internal {

// One version, whole.
struct Held {
  int version = -1;
  std::string sha256;   // of the version
  std::string weights;  // safetensors
  Sampler sampler;
};

class Weights {
 public:
  // `make`: of a description and safetensors. What it throws is final for a version; the one before goes on acting.
  using Make = std::function<Sampler(const std::string& description, const std::string& weights)>;

  Weights(std::shared_ptr<grpc::Channel> channel, std::string policy, Make make, Log log);
  ~Weights();
  // Follow no more; what is here stays.
  void stop();

  // Null: none came yet.
  std::shared_ptr<const Held> now() const { return std::atomic_load(&held_); }
  // Wait for a version, or a later one.
  bool wait_for(int version, Seconds timeout);
  // Throws Refused where what came is not for this library.
  void check() const;
  std::string fault() const;

 private:
  void run();
  void take(const ::auxilium::v1::PolicyUpdate& update);
  void note(const std::string& fault, bool final);

  std::unique_ptr<::auxilium::v1::PolicyService::Stub> stub_;
  std::string policy_;
  Make make_;
  Log log_;
  std::shared_ptr<const Held> held_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::string fault_;
  bool unfit_ = false;
  Pauses pauses_{std::chrono::milliseconds(2000)};
  Stream stream_;
  std::thread thread_;
};

}  // namespace auxilium::internal
