// What a step's memory may take and what it took, by category.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "comm/process_group.h"
#include "core/device/allocator.h"

namespace lockstep::train {

// Bytes by category; what nobody can say before the step runs (activations, small buffers) is
// kUnplanned.
using MemoryBound = std::array<int64_t, kMemoryCategories>;
inline constexpr int64_t kUnplanned = -1;

struct MemoryReport {
  MemoryBound bound{};  // unplanned ones hold what was measured
  std::array<bool, kMemoryCategories> planned{};
  std::array<int64_t, kMemoryCategories>
      peak{};               // each category's own, of the rank with the largest total
  int64_t bound_bytes = 0;  // sum over the categories
  int64_t peak_bytes = 0;   // of the sum: what was in use at one time
  double of_bound() const {
    return bound_bytes > 0 ? static_cast<double>(peak_bytes) / static_cast<double>(bound_bytes)
                           : 0.0;
  }
};

// Collective. Of the rank whose peak is highest, since the allocator's last reset_peak().
MemoryReport report_memory(const MemoryBound& bound, comm::ProcessGroup& group);

// A table for people, with a line for each category that was used.
std::string memory_table(const MemoryReport& report);

}  // namespace lockstep::train
