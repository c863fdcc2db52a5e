#include "core/device/cuda/toolkit/cublaslt.h"

#include <dlfcn.h>

#include "core/base/error.h"

namespace lockstep::cuda {
namespace {

constexpr const char* kLibrary = "libcublasLt.so.13";

template <class F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (!function)
    throw EnvironmentError(str("[cublas] ", kLibrary, " has no function ", name,
                               "; lockstep was built for CUDA ", CUBLAS_VER_MAJOR));
}

CublasApi load() {
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    throw EnvironmentError(str("[cublas] ", kLibrary, " cannot be loaded: ", dlerror(),
                               ". Install cuBLAS of CUDA ", CUBLAS_VER_MAJOR,
                               ", or name its folder in LD_LIBRARY_PATH"));
  CublasApi api{};
  find(library, "cublasLtCreate", api.create);
  find(library, "cublasLtGetStatusString", api.status_text);
  find(library, "cublasLtMatmulDescCreate", api.desc_create);
  find(library, "cublasLtMatmulDescDestroy", api.desc_destroy);
  find(library, "cublasLtMatmulDescSetAttribute", api.desc_set);
  find(library, "cublasLtMatrixLayoutCreate", api.layout_create);
  find(library, "cublasLtMatrixLayoutDestroy", api.layout_destroy);
  find(library, "cublasLtMatmulPreferenceCreate", api.preference_create);
  find(library, "cublasLtMatmulPreferenceDestroy", api.preference_destroy);
  find(library, "cublasLtMatmulPreferenceSetAttribute", api.preference_set);
  find(library, "cublasLtMatmulAlgoGetHeuristic", api.heuristic);
  find(library, "cublasLtMatmulAlgoConfigGetAttribute", api.algo_get);
  find(library, "cublasLtGetVersion", api.version);
  find(library, "cublasLtMatmul", api.matmul);
  return api;
}

}  // namespace

const CublasApi& cublas() {
  static const CublasApi api = load();
  return api;
}

void check_cublas(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw EnvironmentError(str("[cublas] ", what, ": ", cublas().status_text(status)));
}

}  // namespace lockstep::cuda
