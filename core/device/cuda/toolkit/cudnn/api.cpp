#include "core/device/cuda/toolkit/cudnn/api.h"

#include <array>

#include <dlfcn.h>

#include "core/base/error.h"

namespace lockstep::cuda::cudnn {
namespace {

constexpr const char* kLibrary = "libcudnn.so.9";
// The first version whose plans can be built for a described device.
constexpr size_t kOldest = 90800;

std::string version_text(size_t version) {
  return str(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

struct Loaded {
  CudnnApi api{};
  std::string problem;

  template <class F>
  void find(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    if (!function && problem.empty()) problem = str(kLibrary, " has no function ", name);
  }
};

Loaded load() {
  Loaded found;
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    found.problem = str(kLibrary, " cannot be loaded: ", dlerror(),
                        ". Install cuDNN 9 for CUDA 13, or name its folder in LD_LIBRARY_PATH");
    return found;
  }
  found.find(library, "cudnnGetVersion", found.api.version);
  found.find(library, "cudnnGetErrorString", found.api.status_text);
  found.find(library, "cudnnGetLastErrorString", found.api.last_error);
  found.find(library, "cudnnCreate", found.api.create);
  found.find(library, "cudnnSetStream", found.api.set_stream);
  found.find(library, "cudnnBackendCreateDescriptor", found.api.descriptor_create);
  found.find(library, "cudnnBackendDestroyDescriptor", found.api.descriptor_destroy);
  found.find(library, "cudnnBackendFinalize", found.api.finalize);
  found.find(library, "cudnnBackendSetAttribute", found.api.set);
  found.find(library, "cudnnBackendGetAttribute", found.api.get);
  found.find(library, "cudnnBackendExecute", found.api.execute);
  if (found.problem.empty() && found.api.version() < kOldest)
    found.problem = str(kLibrary, " is cuDNN ", version_text(found.api.version()),
                        ", but lockstep needs ", version_text(kOldest), " or later");
  return found;
}

const Loaded& loaded() {
  static const Loaded found = load();
  return found;
}

}  // namespace

const std::string& why_missing() { return loaded().problem; }

const CudnnApi& api() {
  if (!loaded().problem.empty()) throw EnvironmentError(str("[cudnn] ", loaded().problem));
  return loaded().api;
}

void check_cudnn(cudnnStatus_t status, const std::string& what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 1024> more{};
  api().last_error(more.data(), more.size());
  const std::string text = str("[cudnn] ", what, ": ", api().status_text(status),
                               more[0] ? " (" : "", more.data(), more[0] ? ")" : "");
  if (status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
      status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED)
    throw ShortOfMemory(str(text, "; use a smaller train.micro_batch or model"));
  throw EnvironmentError(text);
}

}  // namespace lockstep::cuda::cudnn
