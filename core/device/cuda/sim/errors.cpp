#include "core/device/cuda/sim/errors.h"

#include <utility>

namespace lockstep::cuda::sim {
namespace {

struct Last {
  int code = kSuccess;
  std::string text;
};
thread_local Last last;

const char* plain_text(int code) {
  switch (code) {
    case kSuccess: return "no error";
    case kInvalidValue: return "invalid argument";
    case kOutOfMemory: return "out of memory";
    case kInitializationError: return "initialization error";
    case kNoDevice: return "no CUDA-capable device is detected";
    case kInvalidDevice: return "invalid device ordinal";
    case kInvalidHandle: return "invalid resource handle";
    case kNotReady: return "device not ready";
    case kLaunchFailure: return "unspecified launch failure";
    case kNotPermitted: return "operation not permitted";
    case kCaptureUnsupported: return "operation not permitted when stream is capturing";
    default: return "unknown error";
  }
}

}  // namespace

int failure(int code, std::string detail) {
  last = {code, std::string(plain_text(code)) + " (" + std::move(detail) + ")"};
  return code;
}

const char* error_text(int code) {
  return code != kSuccess && code == last.code ? last.text.c_str() : plain_text(code);
}

}  // namespace lockstep::cuda::sim
