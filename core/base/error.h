// The two families of errors (docs/errors.md).
//
//   UsageError        the caller did something wrong: says what was expected, what came, and
//                     what to do.
//   EnvironmentError  the world did something wrong (peer, disk, network): says rank, host,
//                     operation or path.
//
// Libraries throw; only cli/ turns an error into an exit code.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace lockstep {

// How every program of the project ends, as docs/errors.md lists it.
enum ExitCode : int {
  kDone = 0,
  kFailed = 1,
  kWrongUse = 2,            // or a wrong config: starting again would end the same way
  kStoppedAfterSaving = 3,  // a run was asked to stop, and can be resumed
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
// The arguments are evaluated in any case; keep them cheap.
template <typename... Args>
void check(bool condition, const Args&... message) {
  if (!condition) [[unlikely]]
    throw UsageError(str(message...));
}

// "No space left on device (errno 28)", for messages of failed system calls.
std::string errno_text(int error_number);

}  // namespace lockstep
