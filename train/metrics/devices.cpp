#include "train/metrics/devices.h"

#include <algorithm>
#include <array>
#include <map>
#include <thread>

#include "comm/text.h"
#include "core/base/error.h"
#include "core/base/number_text.h"
#include "core/base/parallel.h"
#include "core/device/cuda_device.h"
#include "core/device/kernels.h"
#include "core/device/probe.h"

namespace lockstep::train {
namespace {

// Peaks from NVIDIA's data sheets, dense, in 10^12 operations per second. f32 is for ordinary
// cores: f32 products keep all bits. `also` separates similar names.
struct Peak {
  std::string_view name, also;
  double bf16, f32;
};
// The first entry that matches counts.
constexpr auto kPeaks = std::to_array<Peak>({
    {"GB300", "", 2500, 80},       {"B300", "", 2250, 75},        {"GB200", "", 2500, 80},
    {"B200", "", 2250, 75},        {"GH200", "", 989.4, 66.9},    {"H200", "NVL", 835.5, 60},
    {"H200", "", 989.4, 66.9},     {"H100", "PCIe", 756.5, 51.2}, {"H100", "NVL", 835.5, 60},
    {"H100", "HBM3", 989.4, 66.9}, {"H800", "PCIe", 756.5, 51.2}, {"H800", "", 989.4, 66.9},
    {"H20", "", 148, 44},          {"A100", "", 312, 19.5},       {"A800", "", 312, 19.5},
    {"A30", "", 165, 10.3},        {"A10", "", 125, 31.2},        {"L40S", "", 362, 91.6},
    {"L40", "", 181, 90.5},        {"L4", "", 121, 30.3},
});

// Whether the text contains `word` with no letter or digit directly beside it.
bool has_word(std::string_view text, std::string_view word) {
  const auto is_part = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
  };
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !is_part(text[at - 1])) && (end == text.size() || !is_part(text[end])))
      return true;
  }
  return false;
}

double cpu_peak_flops(DType compute, int ranks) {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return probe_peak_gflops(compute) * 1e9 * std::min(cores, ranks * num_threads());
}

}  // namespace

std::string Devices::text() const {
  if (models.empty()) return str("cpu (", cpu_instruction_set(), ")");
  std::map<std::string, int> counts;
  for (const std::string& model : models) ++counts[model];
  std::string text;
  for (const auto& [model, count] : counts)
    text += str(text.empty() ? "" : ", ", count, " x ", model);
  if (std::ssize(models) == ranks) return text;
  return str(text, ", shared by ", count_text(ranks, "rank"));
}

Devices devices_of(comm::ProcessGroup& group) {
  const Device mine = group.device();
  const std::vector<std::string> all = comm::agree(&group, [&] {
    if (mine.type == DeviceType::cpu) return std::string();
    const cuda::DeviceInfo info = cuda::info(mine.index);
    return str(info.uuid, "\n", info.model);
  });
  std::map<std::string, std::string> model_of;
  for (const std::string& text : all)
    if (!text.empty()) model_of[text.substr(0, text.find('\n'))] = text.substr(text.find('\n') + 1);
  Devices devices{.ranks = group.size()};
  for (const auto& [uuid, model] : model_of) devices.models.push_back(model);
  return devices;
}

std::optional<double> peak_flops_of(std::string_view model, DType compute) {
  if (has_word(model, "MIG")) return std::nullopt;  // a part of a card has another peak
  for (const Peak& peak : kPeaks)
    if (has_word(model, peak.name) && (peak.also.empty() || has_word(model, peak.also)))
      return (compute == DType::f32 ? peak.f32 : peak.bf16) * 1e12;
  return std::nullopt;
}

std::optional<double> peak_flops(const Devices& devices, DType compute) {
  if (devices.models.empty()) return cpu_peak_flops(compute, devices.ranks);
  double total = 0;
  for (const std::string& model : devices.models) {
    const auto peak = peak_flops_of(model, compute);
    if (!peak) return std::nullopt;
    total += *peak;
  }
  return total;
}

}  // namespace lockstep::train
