// The line between a simulator and the protocol. Write a class of this kind for your own simulator;
// session, server, fast lane and attach need no change.
#pragma once

#include <string>

#include "simulation/v2/simulation.pb.h"

namespace sim {

namespace v2 = ::simulation::v2;

// An error that leaves the state as it was, so the trainer may go on.
inline v2::EnvError& set_error(v2::FromEnv& answer, v2::ErrorCode code, const std::string& message) {
  v2::EnvError& error = *answer.mutable_error();
  error.set_code(code);
  error.set_message(message);
  error.set_recoverable(true);
  return error;
}

class Environment {
 public:
  virtual ~Environment() = default;

  // Names, spaces, lanes, autoreset and what it is capable of. The session adds the rest.
  virtual void describe(v2::Contract& contract) const = 0;
  // A new session: nothing of the last one may show. `agreed` has the capabilities both sides have.
  virtual void begin(const v2::Contract& agreed) = 0;
  // Both put a transition or an error into `answer`; after an error the state is the one from before. What they
  // throw reaches the trainer as CRASHED, which ends its run.
  virtual void reset(const v2::Reset& request, v2::FromEnv& answer) = 0;
  virtual void step(const v2::Step& request, v2::FromEnv& answer) = 0;
};

}  // namespace sim
