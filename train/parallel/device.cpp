#include "train/parallel/device.h"

#include <string_view>

#include "core/base/build_info.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/device/cuda_device.h"

namespace lockstep::train {
namespace {

bool has_cuda() { return cuda::device_count() > 0; }

std::string why_no_cuda() {
  const bool built = std::string_view(build_info::kCuda) != "none";
  return str(cuda::why_none(), built ? "; `lockstep doctor` shows what this machine has"
                                     : "; docs/gpu.md says how to build it with CUDA");
}

Device bound(DeviceKind kind, int local_rank) {
  if (kind != DeviceKind::cuda) return kCpu;
  const int index = local_rank % cuda::device_count();
  cuda::bind(index);
  return {DeviceType::cuda, index};
}

}  // namespace

DeviceKind resolved(DeviceKind device) {
  if (device == DeviceKind::automatic)
    return !cuda::is_simulated() && has_cuda() ? DeviceKind::cuda : DeviceKind::cpu;
  check(device != DeviceKind::cuda || has_cuda(), "device is 'cuda', but ", why_no_cuda(),
        ". Set device to cpu or auto to compute on the CPU");
  return device;
}

Device take_device(Config& config, const launcher::RankEnv& rank) {
  config.device = resolved(config.device);
  check(config.device != DeviceKind::cpu || config.train.precision != Precision::fp16,
        "train.precision fp16 is for CUDA devices: take bf16 to compute on the CPU");
  check_config(config);
  return bound(config.device, rank.local_rank);
}

Device device_of_saved(const Config& config, bool asked) {
  if (!asked && config.device == DeviceKind::cuda && !has_cuda()) {
    log::warn(
        "this model was trained on a CUDA device, but this process has none: it runs on the "
        "CPU, which rounds differently");
    return kCpu;
  }
  return bound(resolved(config.device), 0);
}

}  // namespace lockstep::train
