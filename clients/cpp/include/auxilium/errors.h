/// \file
/// What goes wrong for the program that an agent lives in.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace auxilium {

/// Root of what an agent throws.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A value that is not accepted; the message names the field, what was given and what is accepted.
class InvalidArgument : public Error {
 public:
  /// Of one field.
  InvalidArgument(const std::string& field, const std::string& text) : Error(field + ": " + text) {}
};

/// The server refuses, or the run has ended; to ask again would get the same answer.
class Refused : public Error {
 public:
  using Error::Error;
};

/// Nobody answered, or nothing came, in time.
class TimedOut : public Error {
 public:
  using Error::Error;
};

/// The step was sent already, with the reward that it had then.
class RewardTooLate : public Error {
 public:
  using Error::Error;
};

/// Steps could not be stored in time.
class Undelivered : public Error {
 public:
  /// Of so many steps.
  Undelivered(std::int64_t steps, const std::string& text) : Error(text), steps_(steps) {}
  /// How many.
  std::int64_t steps() const { return steps_; }

 private:
  std::int64_t steps_;
};

}  // namespace auxilium
