#include "core/device/cuda/toolkit/cudnn/plan.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "core/base/error.h"

namespace lockstep::cuda::cudnn {
namespace {

// cuDNN suggests fewer for one graph.
constexpr size_t kMostSuggestions = 64;

std::string text_of(const Descriptor& descriptor, cudnnBackendAttributeName_t name) {
  const std::vector<char> bytes = descriptor.list<char>(name);
  std::string text(bytes.begin(), bytes.end());
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

std::vector<Descriptor> suggestions(const Descriptor& graph, const DeviceDescription& device,
                                    cudnnBackendHeurMode_t mode) {
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, mode);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device.descriptor());
  if (!heuristics.try_finalize("asking for engines")) return {};
  std::vector<Descriptor> found;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (size_t i = 0; i < kMostSuggestions; ++i)
    handles.push_back(found.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).handle());
  int64_t count = 0;
  check_cudnn(
      api().get(heuristics.handle(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                static_cast<int64_t>(handles.size()), &count, handles.data()),
      "asking for engines");
  found.erase(found.begin() + count, found.end());
  return found;
}

Descriptor config_of(const Descriptor& graph, const DeviceDescription& device,
                     const EngineChoice& choice) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  engine.set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph);
  engine.set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, choice.engine);
  engine.set(CUDNN_ATTR_ENGINE_DEVICEPROP, device.descriptor());
  engine.finalize("choosing an engine");
  std::vector<Descriptor> knobs;
  std::vector<cudnnBackendDescriptor_t> handles;
  for (const auto& [type, value] : choice.knobs) {
    Descriptor& knob = knobs.emplace_back(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    knob.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, type);
    knob.set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, value);
    knob.finalize("choosing an engine's settings");
    handles.push_back(knob.handle());
  }
  Descriptor config(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  config.set(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
  config.set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, handles.data(), handles.size());
  config.finalize("choosing an engine's settings");
  return config;
}

std::optional<Descriptor> plan_of(const Descriptor& config, const DeviceDescription& device) {
  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device.descriptor());
  if (!plan.try_finalize("building a plan")) return std::nullopt;
  return plan;
}

bool repeats_its_bits(const Descriptor& config) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t handle = engine.handle();
  int64_t count = 0;
  check_cudnn(api().get(config.handle(), CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                        1, &count, &handle),
              "asking for an engine");
  const auto notes = engine.list<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE);
  return std::find(notes.begin(), notes.end(), CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) ==
         notes.end();
}

std::optional<Descriptor> plan_by(const EngineChoice& choice, const Descriptor& graph,
                                  const DeviceDescription& device) {
  try {
    const Descriptor config = config_of(graph, device, choice);
    if (!repeats_its_bits(config)) return std::nullopt;
    return plan_of(config, device);
  } catch (const ShortOfMemory&) {
    throw;
  } catch (const EnvironmentError&) {
    return std::nullopt;  // this version has no such engine for the graph
  }
}

}  // namespace

DeviceDescription DeviceDescription::from_json(const std::string& json) {
  Descriptor descriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  descriptor.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, json.data(), json.size());
  descriptor.finalize("describing a device");
  return DeviceDescription(std::move(descriptor));
}

DeviceDescription DeviceDescription::of_device(int index) {
  Descriptor descriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  const auto number = static_cast<int32_t>(index);
  check_cudnn(
      api().set(descriptor.handle(), CUDNN_ATTR_DEVICEPROP_DEVICE_ID, CUDNN_TYPE_INT32, 1, &number),
      "naming a device");
  descriptor.finalize("describing a device");
  return DeviceDescription(std::move(descriptor));
}

std::string DeviceDescription::json() const {
  return text_of(descriptor_, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION);
}

int DeviceDescription::compute_capability() const {
  constexpr std::string_view kName = "\"deviceVer\":";
  const std::string text = json();
  const size_t at = text.find(kName);
  return at == std::string::npos ? 0 : std::atoi(text.c_str() + at + kName.size()) / 10;
}

Plan Plan::build(const Descriptor& graph, const DeviceDescription& device,
                 const std::optional<EngineChoice>& first) {
  if (first)
    if (std::optional<Descriptor> plan = plan_by(*first, graph, device))
      return Plan(std::move(*plan));
  size_t tried = 0;
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (const Descriptor& config : suggestions(graph, device, mode)) {
      ++tried;
      if (!repeats_its_bits(config)) continue;
      if (std::optional<Descriptor> plan = plan_of(config, device)) return Plan(std::move(*plan));
    }
  throw EnvironmentError(str("[cudnn] has no engine that repeats its bits: it suggests ", tried,
                             ", and none can be used"));
}

Plan Plan::read(const std::string& text, const DeviceDescription& device) {
  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device.descriptor());
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION, text.data(), text.size());
  plan.finalize("reading a plan");
  return Plan(std::move(plan));
}

std::string Plan::text() const {
  return text_of(plan_, CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION);
}

int64_t Plan::workspace() const { return plan_.number(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE); }

}  // namespace lockstep::cuda::cudnn
