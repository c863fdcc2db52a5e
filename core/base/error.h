// The two families of errors (docs/errors.md).
//
//   UsageError        The caller did something wrong. The message tells what was expected, what
//                     came, and what to do.
//   EnvironmentError  A peer, disk or network failed. The message names rank, host, operation or
//                     path.
//
// Libraries throw. Only cli/ turns an error into an exit code.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace lockstep {

// The exit codes of every program of the project (docs/errors.md).
enum ExitCode : int {
  kDone = 0,
  kFailed = 1,
  kWrongUse = 2,            // or a wrong config: a restart would end the same way
  kStoppedAfterSaving = 3,  // the run was asked to stop and can be resumed
};

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class UsageError : public Error {
 public:
  using Error::Error;
};

class EnvironmentError : public Error {
 public:
  using Error::Error;
};

// A wait reached its limit. The message names what was awaited and for how long.
class TimeoutError : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

// Joins anything that can be streamed: str("expected ", 3, ", got ", shape).
template <typename... Args>
std::string str(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// Throws UsageError unless `condition`: check(n > 0, "[embedding] n must be positive, got ", n).
// The arguments are always evaluated; keep them cheap.
template <typename... Args>
void check(bool condition, const Args&... message) {
  if (!condition) [[unlikely]]
    throw UsageError(str(message...));
}

// "No space left on device (errno 28)", for messages about failed system calls.
std::string errno_text(int error_number);

}  // namespace lockstep
