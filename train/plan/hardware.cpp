#include "train/plan/hardware.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/cores.h"
#include "core/base/error.h"
#include "core/base/number_text.h"
#include "core/base/parallel.h"
#include "core/device/probe.h"
#include "core/nn/random.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "train/metrics/devices.h"
#include "train/models/factory.h"

namespace lockstep::train {
namespace {

// Data sheets of the SXM models: memory, its bandwidth, NVLink in one direction.
struct Gpu {
  std::string_view name, model;  // model: as peak_flops_of() knows it
  double memory_gb, memory_gb_per_s, link_gb_per_s;
};
constexpr auto kGpus = std::to_array<Gpu>({{"h100", "NVIDIA H100 80GB HBM3", 80, 3350, 450},
                                           {"h200", "NVIDIA H200", 141, 4800, 450},
                                           {"b200", "NVIDIA B200", 180, 8000, 900}});

constexpr int kGpusPerNode = 8;
constexpr double kGpuEfficiency = 0.5;
// Of NVLink's and the links' rate, what a collective of some megabytes reaches.
constexpr double kLinkEfficiency = 0.8;
constexpr double kGpuCall = 20e-6, kCpuCall = 20e-6;

// A micro-batch that takes longer, or a model that needs more, is not measured.
constexpr double kMostFlops = 4e12;
constexpr double kMostOfMemory = 0.5;

double memory_of_machine() {
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<double>(::sysconf(_SC_PAGESIZE));
}

Tensor inputs_of(const Config& config) {
  const ModelConfig& m = config.model;
  const int64_t samples = config.train.micro_batch;
  if (!m.is_language_model()) return Tensor::zeros({samples, m.block});
  return Tensor::zeros({samples, m.block}, DType::i32);
}

Tensor targets_of(const Config& config) {
  const ModelConfig& m = config.model;
  const int64_t samples = config.train.micro_batch;
  return m.is_language_model() ? Tensor::zeros({samples, m.block}, DType::i32)
                               : Tensor::zeros({samples}, DType::i32);
}

// The fastest of some passes, since slower ones shared the cores. The first one takes memory from
// the system.
double measure_micro_batch(const Config& config) {
  const BuiltModel model = build_model(config);
  const Tensor inputs = inputs_of(config), targets = targets_of(config);
  double best = INFINITY;
  for (int pass = 0; pass < 4; ++pass) {
    const auto start = Clock::now();
    const ops::PrecisionScope precision(dtype_of(config.train.precision));
    const nn::RandomScope random(RandomKey{.seed = 1, .step = 1, .micro = 0});
    ops::cross_entropy((*model.module)(Variable(inputs)), targets).backward();
    if (pass > 0) best = std::min(best, seconds(Clock::now() - start));
  }
  return best;
}

}  // namespace

std::optional<Hardware> gpu_hardware(std::string_view name, Precision precision, double link) {
  const auto* gpu =
      std::find_if(kGpus.begin(), kGpus.end(), [&](const Gpu& each) { return each.name == name; });
  if (gpu == kGpus.end()) return std::nullopt;
  return Hardware{.name = std::string(gpu->model),
                  .flops_per_s = peak_flops_of(gpu->model, dtype_of(precision)).value(),
                  .efficiency = kGpuEfficiency,
                  .memory_bytes_per_s = gpu->memory_gb_per_s * 1e9,
                  .memory_bytes = gpu->memory_gb * 1e9,
                  .local_bytes_per_s = gpu->link_gb_per_s * 1e9 * kLinkEfficiency,
                  .remote_bytes_per_s = link * 1e9 * kLinkEfficiency,
                  .ranks_per_node = kGpusPerNode,
                  .call_s = kGpuCall};
}

Hardware measured_cpu(const Config& config, int ranks) {
  check(config.train.precision != Precision::fp16,
        "--device cpu: train.precision fp16 is for CUDA devices; set fp32 or bf16");
  const BuiltModel shape = build_model(config, InitialValues::deferred);
  double bytes = 0;
  for (const Parameter& p : shape.module->parameters())
    bytes += 2.0 * static_cast<double>(p.data().bytes());
  const double flops = shape.flops_per_sample * static_cast<double>(config.train.micro_batch);
  check(bytes < kMostOfMemory * memory_of_machine() && flops < kMostFlops,
        "--device cpu: this machine cannot measure a micro-batch of ", flops,
        " floating-point operations and ", size_text(bytes),
        " of weights and gradients within seconds: lower model.layers or train.micro_batch, or "
        "choose h100, h200 or b200");
  const int cores = usable_cores(), threads = std::max(1, cores / ranks);
  const double memory = probe_memory_bytes_per_s();  // with all cores, which the ranks share
  set_num_threads(threads);
  const double sharing = std::max(1.0, static_cast<double>(ranks * threads) / cores);
  const int at_work = std::min(ranks, cores);
  return {
      .name = str(count_text(threads, "thread"), " of this machine's ", count_text(cores, "core"),
                  " a rank"),
      .flops_per_s = probe_peak_gflops(dtype_of(config.train.precision)) * 1e9 * threads / sharing,
      .memory_bytes_per_s = memory / at_work,
      .memory_bytes = memory_of_machine() / ranks,
      // A sum between ranks reads two arrays for each that it writes.
      .local_bytes_per_s = memory / at_work / 3,
      .ranks_per_node = ranks,
      .call_s = kCpuCall,
      .overlaps = false,
      .micro_batch_s = measure_micro_batch(config),
      .ranks_per_core = sharing};
}

}  // namespace lockstep::train
