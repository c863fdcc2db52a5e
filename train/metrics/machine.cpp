#include "train/metrics/machine.h"

#include <climits>

#include <sys/resource.h>
#include <unistd.h>

#include "core/base/number_text.h"
#include "core/device/allocator.h"

namespace lockstep::train {

std::string this_host() {
  char name[HOST_NAME_MAX + 1] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

double peak_memory_mb(Device device) {
  if (device.type != DeviceType::cpu)
    return static_cast<double>(allocator(device).stats().total_peak_bytes) / kMB;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / kMB;  // Linux counts KiB
}

std::vector<std::pair<std::string, double>> memory_by_category(Device device) {
  std::vector<std::pair<std::string, double>> peaks;
  if (device.type == DeviceType::cpu) return peaks;
  const auto add = [&](std::string_view name, int64_t bytes) {
    if (bytes > 0) peaks.emplace_back(name, static_cast<double>(bytes) / kMB);
  };
  const MemoryStats stats = allocator(device).stats();
  for (size_t c = 0; c < kMemoryCategories; ++c)
    add(name_of(static_cast<MemoryCategory>(c)), stats.peak_bytes[c]);
  add("pinned", pinned_allocator(device).stats().total_peak_bytes);
  return peaks;
}

}  // namespace lockstep::train
