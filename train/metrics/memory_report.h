// The planned and the used memory of a step, by category.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "comm/process_group.h"
#include "core/device/allocator.h"

namespace lockstep::train {

// Bytes by category. kUnplanned for what is not known before the step runs (activations, small
// buffers).
using MemoryBound = std::array<int64_t, kMemoryCategories>;
inline constexpr int64_t kUnplanned = -1;

struct MemoryReport {
  MemoryBound bound{};  // unplanned categories hold the measured bytes
  std::array<bool, kMemoryCategories> planned{};
  // Each category's own peak, of the rank with the largest total.
  std::array<int64_t, kMemoryCategories> peak{};
  int64_t bound_bytes = 0;  // sum over the categories
  int64_t peak_bytes = 0;   // peak of the sum: what was in use at one time
  // Beside these, on the host for the device's copies; 0 on a CPU.
  int64_t pinned_bytes = 0;
  double of_bound() const {
    return bound_bytes > 0 ? static_cast<double>(peak_bytes) / static_cast<double>(bound_bytes)
                           : 0.0;
  }
};

// The most pinned memory that this process had at one time for `device`. 0 for a CPU.
int64_t pinned_peak_bytes(Device device);

// Collective. `device`: where this rank computes. Reports the rank with the highest peak since the
// last reset_peak() of the device's allocator.
MemoryReport report_memory(const MemoryBound& bound, Device device, comm::ProcessGroup& group);

// A table for people, with a line for each used category.
std::string memory_table(const MemoryReport& report);

}  // namespace lockstep::train
