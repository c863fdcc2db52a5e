// The model that a config names.
#pragma once

#include <memory>
#include <optional>

#include "core/device/kernels.h"
#include "core/nn/module.h"
#include "train/config/config.h"

namespace lockstep::train {

struct BuiltModel {
  std::shared_ptr<nn::Module> module;
  double flops_per_sample = 0;   // forward and backward
  int64_t items_per_sample = 1;  // tokens; 1 if a sample has none
  bool items_are_tokens = false;
};

enum class InitialValues : uint8_t {
  drawn,  // parameters hold their initial values
  // Parameters have no memory (nn::DeferredInit). The code that shards the model draws the parts
  // that a rank keeps.
  deferred,
};
// Initial values depend on run.seed alone. Recomputation follows train.recompute.
BuiltModel build_model(const Config& config, InitialValues values = InitialValues::drawn);

// Attention of one block and micro-batch in training, without its arrays. None for a model that has
// none.
std::optional<AttentionArgs> attention_of(const Config& config);

}  // namespace lockstep::train
