#include "train/trace/profile.h"

#include <algorithm>
#include <cstdio>

#include "core/base/error.h"

namespace lockstep::train {
namespace {

constexpr double kNsPerMs = 1e6;

// "gemm nt 1024 x 1152 x 384": the values, without those of the last fields that are no numbers.
std::string row_name(const trace::Event& event) {
  std::string name = event.name ? event.name : event.kind->name;
  if (!event.kind->by_values) return name;
  for (size_t i = 0; i < trace::kMostValues && event.kind->fields[i].key; ++i)
    if (event.kind->fields[i].form == trace::Form::number)
      name += str(i == 0 ? " " : " x ", event.values[i]);
  return name;
}

std::optional<double> of_limit(double ns, double flops, double bytes, const Limits& limits) {
  double least_s = 0;
  if (limits.flops_per_s > 0) least_s = flops / limits.flops_per_s;
  if (limits.bytes_per_s > 0) least_s = std::max(least_s, bytes / limits.bytes_per_s);
  if (least_s <= 0 || ns <= 0) return std::nullopt;
  return least_s * 1e9 / ns;
}

void print_row(std::string& out, const ProfileRow& row) {
  char text[200];
  const auto number = [](double value) {
    char digits[24];
    std::snprintf(digits, sizeof(digits), value > 0 ? "%.1f" : "-", value);
    return std::string(digits);
  };
  std::snprintf(text, sizeof(text), "  %-40s %9.1f %10.3f %7.1f%% %9s %8s", row.name.c_str(),
                row.calls, row.ms, row.share * 100, number(row.gflop_per_s).c_str(),
                number(row.gb_per_s).c_str());
  out += text;
  if (row.of_limit) {
    std::snprintf(text, sizeof(text), " %8.0f%%", *row.of_limit * 100);
    out += text;
  }
  out += "\n";
}

}  // namespace

void Profile::take(const trace::ThreadInfo& thread, std::span<const trace::Event> events) {
  for (const trace::Event& event : events) {
    const std::string_view category = event.kind->category;
    Sum* sum = category == "op"     ? &operations_[thread.number][row_name(event)]
               : category == "comm" ? &calls_[row_name(event)]
               : category == "wait" ? &waits_[thread.number]
               : category == "step" ? &steps_[thread.number]
                                    : nullptr;
    if (!sum) continue;
    ++sum->count;
    sum->ns += event.end_ns - event.begin_ns;
    sum->flops += event.flops;
    sum->bytes += event.bytes;
  }
}

std::vector<ProfileRow> Profile::rows_of(const Sums& sums, const Sum& steps, const Limits& limits) {
  std::vector<ProfileRow> rows;
  const auto count = static_cast<double>(steps.count);
  for (const auto& [name, sum] : sums) {
    const auto ns = static_cast<double>(sum.ns), flops = static_cast<double>(sum.flops),
               bytes = static_cast<double>(sum.bytes);
    rows.push_back({.name = name,
                    .calls = static_cast<double>(sum.count) / count,
                    .ms = ns / count / kNsPerMs,
                    .share = ns / static_cast<double>(steps.ns),
                    .gflop_per_s = ns > 0 ? flops / ns : 0,
                    .gb_per_s = ns > 0 ? bytes / ns : 0,
                    .of_limit = of_limit(ns, flops, bytes, limits)});
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const ProfileRow& a, const ProfileRow& b) { return a.ms > b.ms; });
  return rows;
}

ProfileReport Profile::report(const Limits& limits) const {
  check(!steps_.empty(), "[profile] no step was recorded");
  const auto& [thread, steps] = *steps_.begin();
  const auto find = [thread = thread](const auto& by_thread) {
    const auto found = by_thread.find(thread);
    return found == by_thread.end() ? std::decay_t<decltype(found->second)>() : found->second;
  };
  const double ms = 1.0 / static_cast<double>(steps.count) / kNsPerMs;
  ProfileReport report{.step_ms = static_cast<double>(steps.ns) * ms,
                       .operations = rows_of(find(operations_), steps, limits),
                       .wait_ms = static_cast<double>(find(waits_).ns) * ms,
                       .calls = rows_of(calls_, steps, {}),
                       .limits = limits};
  for (const ProfileRow& row : report.operations) report.operations_ms += row.ms;
  report.other_ms = report.step_ms - report.operations_ms - report.wait_ms;
  return report;
}

std::string profile_table(const ProfileReport& report) {
  char text[200];
  std::snprintf(text, sizeof(text), "  %-40s %9s %10s %8s %9s %8s %9s\n", "operation of rank 0",
                "calls", "ms a step", "share", "GFLOP/s", "GB/s", "of limit");
  std::string out = text;
  for (const ProfileRow& row : report.operations) print_row(out, row);
  const auto line = [&](const char* name, double ms) {
    print_row(out, {.name = name, .ms = ms, .share = ms / report.step_ms});
  };
  line("all operations", report.operations_ms);
  line("waits for other ranks", report.wait_ms);
  line("not covered", report.other_ms);
  if (!report.calls.empty()) {
    out += "  calls between ranks, of any thread\n";
    for (const ProfileRow& row : report.calls) print_row(out, row);
  }
  std::snprintf(text, sizeof(text),
                "  limits: %.0f GFLOP/s of products, %.1f GB/s of memory (measured); more than "
                "100 %%: from caches\n",
                report.limits.flops_per_s / 1e9, report.limits.bytes_per_s / 1e9);
  return out + text;
}

}  // namespace lockstep::train
