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
  double of_bound() const {
    return bound_bytes > 0 ? static_cast<double>(peak_bytes) / static_cast<double>(bound_bytes)
                           : 0.0;
  }
};

// Collective. Reports the rank with the highest peak since the allocator's last reset_peak().
MemoryReport report_memory(const MemoryBound& bound, comm::ProcessGroup& group);

// A table for people, with a line for each used category.
std::string memory_table(const MemoryReport& report);

}  // namespace lockstep::train
