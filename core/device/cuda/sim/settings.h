// What the simulated machine is like. Environment variables say it; docs/gpu.md lists them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace lockstep::cuda::sim {

// How device memory is kept from the host.
enum class Protection : uint8_t {
  // Protection keys. Only the thread that executes queued work can touch device memory.
  keys,
  // mprotect around every batch of executed work. This is weaker: while one thread executes queued
  // work, no thread's access faults.
  pages
};

struct Settings {
  int devices = 1;                            // LOCKSTEP_SIM_DEVICES, from 0 to 64
  int64_t memory = int64_t{16384} * 1000000;  // LOCKSTEP_SIM_MEMORY_MB: bytes of each device
  uint64_t seed = 1;                          // LOCKSTEP_SIM_SEED
  Protection protection = Protection::pages;  // LOCKSTEP_SIM_PROTECTION=keys|pages

  // From the environment. `protection` is keys where the processor and the system have them, unless
  // the environment says otherwise. Throws UsageError for a value that does not fit.
  static Settings read();
};

}  // namespace lockstep::cuda::sim
