// Devices that cuDNN builds plans for without their being there.
#pragma once

#include <string>

#include "core/base/error.h"

namespace lockstep::testing {

struct DescribedDevice {
  const char* name;
  int version;  // 900 for compute capability 9.0
  int multiprocessors;
  int64_t shared_memory;  // bytes that a block may ask for
  int64_t l2_cache, memory;

  // In the words that cuDNN 9 asks for.
  std::string json() const {
    return str(R"({"cudaDeviceId":0,"deviceName":")", name, R"(","deviceVer":)", version,
               R"(,"driverVer":13000,"isTccDriver":0,"supportCoopLaunch":1,"l2CacheSize":)",
               l2_cache, R"(,"maxCtasPerSM":32,"maxRegistersPerSM":65536,)",
               R"("maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":)", shared_memory,
               R"(,"maxThreadsPerBlock":1024,"maxThreadsPerSM":2048,"memClockRateKHz":2619000,)",
               R"("smClockRateKHz":1980000,"multiProcessorCount":)", multiprocessors,
               R"(,"pciDeviceId":0,"regsPerBlock":65536,"reservedSharedMemoryPerBlock":1024,)",
               R"("totalGlobalMem":)", memory, R"(,"warpSize":32,"maxSharedMemoryPerSM":)",
               shared_memory + 1024,
               R"(,"maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64]})");
  }
};

inline const DescribedDevice kA100{
    "NVIDIA A100-SXM4-80GB", 800, 108, 166912, 41943040, 85899345920};
inline const DescribedDevice kH200{"NVIDIA H200", 900, 132, 232448, 52428800, 150754820096};
inline const DescribedDevice kB200{"NVIDIA B200", 1000, 148, 232448, 132644864, 191502483456};

}  // namespace lockstep::testing
