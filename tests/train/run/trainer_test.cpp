// One rank's steps, without a program around them.
#include "train/run/trainer.h"

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"

namespace lockstep::train {
namespace {

Config small_mlp(const std::vector<std::string>& overrides = {}) {
  return parse_config(
      "data: {kind: random}\n"
      "model: {kind: mlp, layers: 1, dim: 6, block: 5, vocab: 3}\n"
      "train: {steps: 4, global_batch: 4, micro_batch: 2}\n",
      "test", overrides);
}

// The parameters after the first step.
std::vector<StatePart> after_one_step(const Config& config) {
  Trainer trainer(config, comm::create("local", std::make_shared<comm::HashStore>(), 0, 1));
  trainer.step();
  return trainer.state();
}

TEST(Trainer, WeightDecayIsOfMatricesWhateverTheOptimizer) {
  for (const char* kind : {"sgd", "adam", "adamw"}) {
    const std::string optimizer = std::string("optim.kind=") + kind;
    const auto plain = after_one_step(small_mlp({optimizer, "optim.weight_decay=0"}));
    const auto decayed = after_one_step(small_mlp({optimizer, "optim.weight_decay=0.5"}));
    for (size_t i = 0; i < plain.size(); ++i) {
      const auto& [name, tensor, shard] = plain[i];
      if (name.starts_with("optim.")) continue;
      const bool same = tensor.to_vector<float>() == decayed[i].values.to_vector<float>();
      EXPECT_EQ(same, tensor.dim() < 2) << kind << ": " << name;
    }
  }
}

}  // namespace
}  // namespace lockstep::train
