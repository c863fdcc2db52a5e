// CUDA devices, simulated or real, for tests of ranks.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include "core/device/device.h"

namespace lockstep::test {

inline constexpr auto kNoDevice =
    "there is no CUDA device: build with LOCKSTEP_CUDA=SIM, or with ON where there is a card";

// How many there are. A child looks, because a process that has used CUDA cannot use it in the
// processes that it forks. Call it before the process has started threads.
inline int cuda_devices() {
  static const int count = [] {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(std::min(device_count(DeviceType::cuda), 64));
    int status = 0;
    return pid > 0 && ::waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
                                                                             : 0;
  }();
  return count;
}

// The device of a rank, if ranks take the first `devices` of them in turn.
inline Device device_of(int rank, int devices) {
  return {DeviceType::cuda, rank % std::min(devices, cuda_devices())};
}

// Simulated machines have so many devices, unless the environment says otherwise. Call it before
// anything uses CUDA.
inline bool simulate_devices(int count) {
  return ::setenv("LOCKSTEP_SIM_DEVICES", std::to_string(count).c_str(), 0) == 0;
}

}  // namespace lockstep::test
