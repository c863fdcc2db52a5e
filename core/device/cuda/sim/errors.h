// The error codes of the CUDA runtime that the simulated one gives.
#pragma once

#include <string>

namespace lockstep::cuda::sim {

enum ErrorCode : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kInitializationError = 3,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidHandle = 400,
  kNotReady = 600,
  kLaunchFailure = 719,
  kNotPermitted = 800,
  kCaptureUnsupported = 900,
  kUnknown = 999
};

// Returns `code`. error_text(code) says `detail`, too, in this thread until its next failure.
int failure(int code, std::string detail);
const char* error_text(int code);

}  // namespace lockstep::cuda::sim
