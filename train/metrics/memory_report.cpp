#include "train/metrics/memory_report.h"

#include <cstdio>

#include "core/base/number_text.h"

namespace lockstep::train {
namespace {

// The layout of the exchanged numbers: bound and peak by category, pinned, total peak.
constexpr int64_t kFields = 2 * kMemoryCategories + 2;

std::string line(std::string_view name, double bound, double peak, const char* note) {
  std::array<char, 128> text{};
  std::snprintf(text.data(), text.size(), "    %-12.*s %10s %10s%s\n",
                static_cast<int>(name.size()), name.data(), size_text(bound).c_str(),
                size_text(peak).c_str(), note);
  return text.data();
}

}  // namespace

int64_t pinned_peak_bytes(Device device) {
  return device == kCpu ? 0 : pinned_allocator(device).stats().total_peak_bytes;
}

MemoryReport report_memory(const MemoryBound& bound, Device device, comm::ProcessGroup& group) {
  const MemoryStats stats = allocator(device).stats();
  const Tensor mine = Tensor::empty({kFields}, DType::i64),
               all = Tensor::empty({group.size() * kFields}, DType::i64);
  const auto fields = mine.span<int64_t>();
  for (size_t c = 0; c < kMemoryCategories; ++c) {
    fields[c] = bound[c];
    fields[kMemoryCategories + c] = stats.peak_bytes[c];
  }
  fields[kFields - 2] = pinned_peak_bytes(device);
  fields[kFields - 1] = stats.total_peak_bytes;
  group.host().all_gather(all, mine).wait();

  const auto of_all = all.span<int64_t>();
  size_t highest = 0;
  for (size_t r = 1; r < static_cast<size_t>(group.size()); ++r)
    if (of_all[(r + 1) * kFields - 1] > of_all[(highest + 1) * kFields - 1]) highest = r;
  const auto rank = of_all.subspan(highest * kFields, kFields);
  MemoryReport report;
  for (size_t c = 0; c < kMemoryCategories; ++c) {
    report.peak[c] = rank[kMemoryCategories + c];
    report.planned[c] = rank[c] != kUnplanned;
    report.bound[c] = report.planned[c] ? rank[c] : report.peak[c];
    if (static_cast<MemoryCategory>(c) != MemoryCategory::offloaded)
      report.bound_bytes += report.bound[c];
  }
  report.pinned_bytes = rank[kFields - 2];
  report.peak_bytes = rank[kFields - 1];
  return report;
}

std::string memory_table(const MemoryReport& report) {
  std::string table = "  memory             bound       peak     of the rank that needs most\n";
  for (size_t c = 0; c < kMemoryCategories; ++c)
    if (report.bound[c] > 0 || report.peak[c] > 0)
      table += line(name_of(static_cast<MemoryCategory>(c)), static_cast<double>(report.bound[c]),
                    static_cast<double>(report.peak[c]), report.planned[c] ? "" : "   as measured");
  std::array<char, 32> note{};
  std::snprintf(note.data(), note.size(), "   %.1f %% of the bound", 100 * report.of_bound());
  table += line("at one time", static_cast<double>(report.bound_bytes),
                static_cast<double>(report.peak_bytes), note.data());
  if (report.pinned_bytes > 0)
    table += line("pinned", static_cast<double>(report.pinned_bytes),
                  static_cast<double>(report.pinned_bytes), "   on the host, as measured");
  return table;
}

}  // namespace lockstep::train
