// How cuDNN runs a graph on one model of device: an engine, its settings and compiled kernels.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/device/cuda/toolkit/cudnn/graph.h"

namespace lockstep::cuda::cudnn {

// A device to build plans for. It need not be there.
class DeviceDescription {
 public:
  // From the text that json() gives, or that a test writes. Throws EnvironmentError if cuDNN finds
  // something missing.
  static DeviceDescription from_json(const std::string& json);
  // The device of this number, which this process can use.
  static DeviceDescription of_device(int index);

  std::string json() const;
  int compute_capability() const;  // 90 for 9.0
  const Descriptor& descriptor() const { return descriptor_; }

 private:
  explicit DeviceDescription(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}
  Descriptor descriptor_;
};

// An engine by its number in cuDNN, with choices that its suggestions do not make.
struct EngineChoice {
  int64_t engine;
  std::vector<std::pair<cudnnBackendKnobType_t, int64_t>> knobs;
};

class Plan {
 public:
  // By `first` if it can compute the graph, and else by the first of cuDNN's suggestions that has
  // no note against its determinism. They depend on graph, device model and version of cuDNN alone.
  // Throws EnvironmentError if there is none.
  static Plan build(const Descriptor& graph, const DeviceDescription& device,
                    const std::optional<EngineChoice>& first = std::nullopt);
  // From text(). Throws EnvironmentError if cuDNN refuses the text.
  static Plan read(const std::string& text, const DeviceDescription& device);

  std::string text() const;
  int64_t workspace() const;  // in bytes
  const Descriptor& descriptor() const { return plan_; }

 private:
  explicit Plan(Descriptor plan) : plan_(std::move(plan)) {}
  Descriptor plan_;
};

}  // namespace lockstep::cuda::cudnn
