#include "train/metrics/step_metrics.h"

#include <nlohmann/json.hpp>

namespace lockstep::train {

std::string to_json(const StepMetrics& metrics) {
  // Keys in the order of the documentation. The library writes NaN and infinity as null.
  nlohmann::ordered_json json = {{"step", metrics.step},
                                 {"loss", metrics.loss},
                                 {"lr", metrics.lr},
                                 {"grad_norm", metrics.grad_norm},
                                 {"step_ms", metrics.step_ms}};
  json[metrics.items_are_tokens ? "tokens_per_s" : "samples_per_s"] = metrics.items_per_s;
  json["mfu"] = metrics.mfu ? nlohmann::ordered_json(*metrics.mfu) : nullptr;
  json["comm_exposed_ms"] = metrics.comm_exposed_ms;
  json["peak_mem_mb"] = metrics.peak_mem_mb;
  for (const auto& [category, mb] : metrics.memory_mb) json["memory_mb"][category] = mb;
  if (metrics.val_loss) json["val_loss"] = *metrics.val_loss;
  return json.dump();
}

}  // namespace lockstep::train
