// cuDNN's functions, found at run time: a program that was built with CUDA starts where the library
// is missing. Only the backend API is used, which builds graphs and plans also without a device.
#pragma once

#include <string>

#include <cudnn_graph.h>

#include "core/base/error.h"

namespace lockstep::cuda::cudnn {

struct CudnnApi {
  decltype(&cudnnGetVersion) version;
  decltype(&cudnnGetErrorString) status_text;
  decltype(&cudnnGetLastErrorString) last_error;
  decltype(&cudnnCreate) create;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnBackendCreateDescriptor) descriptor_create;
  decltype(&cudnnBackendDestroyDescriptor) descriptor_destroy;
  decltype(&cudnnBackendFinalize) finalize;
  decltype(&cudnnBackendSetAttribute) set;
  decltype(&cudnnBackendGetAttribute) get;
  decltype(&cudnnBackendExecute) execute;
};

// Why the library cannot be used, naming it and where it was looked for; empty if it can.
const std::string& why_missing();

// Throws EnvironmentError if the library is missing.
const CudnnApi& api();

// cuDNN lacks memory now, and may have it another time. It is no answer to whether it can do
// something.
class ShortOfMemory : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

// Throws EnvironmentError "[cudnn] WHAT: TEXT" unless the status is a success, and ShortOfMemory
// where memory is what lacks.
void check_cudnn(cudnnStatus_t status, const std::string& what);

}  // namespace lockstep::cuda::cudnn
