// Stands in for libcuda.so.1 where no driver is, so that cuDNN can compile plans for a described
// device. Loading a module succeeds and loads nothing; there is no device and nothing runs. Public
// functions of the driver API alone, without its header: cuDNN looks them up by name.
#include <cstddef>

namespace {

constexpr int kSuccess = 0;
constexpr int kNoDevice = 100;
constexpr int kNotFound = 500;
constexpr int kVersion = 13000;

// A handle that no function here looks at.
void* handle() {
  static int something = 0;
  return &something;
}

}  // namespace

#define LOCKSTEP_EXPORT extern "C" __attribute__((visibility("default")))

LOCKSTEP_EXPORT int cuInit(unsigned) { return kSuccess; }
LOCKSTEP_EXPORT int cuDriverGetVersion(int* version) {
  *version = kVersion;
  return kSuccess;
}
LOCKSTEP_EXPORT int cuLibraryLoadData(void** library, const void*, void*, void*, unsigned, void*,
                                      void*, unsigned) {
  *library = handle();
  return kSuccess;
}
LOCKSTEP_EXPORT int cuLibraryUnload(void*) { return kSuccess; }
LOCKSTEP_EXPORT int cuLibraryGetKernel(void** kernel, void*, const char*) {
  *kernel = handle();
  return kSuccess;
}
LOCKSTEP_EXPORT int cuLibraryGetGlobal(unsigned long long* address, size_t* bytes, void*,
                                       const char*) {
  *address = 4096;
  *bytes = 64;
  return kSuccess;
}
LOCKSTEP_EXPORT int cuKernelGetFunction(void** function, void*) {
  *function = handle();
  return kSuccess;
}
LOCKSTEP_EXPORT int cuKernelSetAttribute(int, int, void*, int) { return kSuccess; }
LOCKSTEP_EXPORT int cuKernelGetAttribute(int* value, int, void*, int) {
  *value = 0;
  return kSuccess;
}
LOCKSTEP_EXPORT int cuFuncSetAttribute(void*, int, int) { return kSuccess; }
LOCKSTEP_EXPORT int cuModuleLoadData(void** module, const void*) {
  *module = handle();
  return kSuccess;
}
LOCKSTEP_EXPORT int cuModuleGetFunction(void** function, void*, const char*) {
  *function = handle();
  return kSuccess;
}
LOCKSTEP_EXPORT int cuGetErrorName(int, const char** name) {
  *name = "no driver";
  return kSuccess;
}
LOCKSTEP_EXPORT int cuGetErrorString(int, const char** text) {
  *text = "a stand-in for the driver has no device";
  return kSuccess;
}
LOCKSTEP_EXPORT int cuGetProcAddress_v2(const char*, void** function, int, unsigned long long,
                                        int* found) {
  *function = nullptr;
  if (found) *found = 1;  // not found
  return kNotFound;
}

#define LOCKSTEP_NO_DEVICE(name) \
  LOCKSTEP_EXPORT int name() { return kNoDevice; }

LOCKSTEP_NO_DEVICE(cuDeviceGetCount)
LOCKSTEP_NO_DEVICE(cuDeviceGet)
LOCKSTEP_NO_DEVICE(cuDeviceGetAttribute)
LOCKSTEP_NO_DEVICE(cuCtxGetCurrent)
LOCKSTEP_NO_DEVICE(cuCtxGetDevice)
LOCKSTEP_NO_DEVICE(cuCtxGetLimit)
LOCKSTEP_NO_DEVICE(cuCtxPushCurrent)
LOCKSTEP_NO_DEVICE(cuCtxPushCurrent_v2)
LOCKSTEP_NO_DEVICE(cuCtxPopCurrent)
LOCKSTEP_NO_DEVICE(cuCtxPopCurrent_v2)
LOCKSTEP_NO_DEVICE(cuStreamGetCtx)
LOCKSTEP_NO_DEVICE(cuFuncGetAttribute)
LOCKSTEP_NO_DEVICE(cuGetExportTable)
LOCKSTEP_NO_DEVICE(cuLaunchKernel)
LOCKSTEP_NO_DEVICE(cuLaunchKernelEx)
LOCKSTEP_NO_DEVICE(cuLaunchCooperativeKernel)
LOCKSTEP_NO_DEVICE(cuLibraryLoadFromFile)
LOCKSTEP_NO_DEVICE(cuLinkCreate)
LOCKSTEP_NO_DEVICE(cuLinkAddData)
LOCKSTEP_NO_DEVICE(cuLinkComplete)
LOCKSTEP_NO_DEVICE(cuLinkDestroy)
LOCKSTEP_NO_DEVICE(cuMemcpyHtoD_v2)
LOCKSTEP_NO_DEVICE(cuMemcpyHtoDAsync_v2)
LOCKSTEP_NO_DEVICE(cuOccupancyMaxActiveBlocksPerMultiprocessor)
LOCKSTEP_NO_DEVICE(cuOccupancyMaxActiveClusters)
LOCKSTEP_NO_DEVICE(cuOccupancyMaxPotentialClusterSize)
LOCKSTEP_NO_DEVICE(cuTensorMapEncodeTiled)
LOCKSTEP_NO_DEVICE(cuTensorMapEncodeIm2col)
