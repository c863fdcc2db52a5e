// GPT-2 as Hugging Face's transformers keeps it (docs/formats/huggingface.md): names and layouts of its tensors beside ours, and its
// config.json.
#pragma once

#include <string>
#include <vector>

#include "train/config/config.h"

namespace lockstep::train {

// A tensor under both names. `transposed`: theirs is [in, out] (transformers' Conv1D) where ours is [out, in].
struct NamePair {
  std::string theirs, ours;
  bool transposed = false;
};

// All tensors of a gpt, theirs without the prefix "transformer.". The head is tied, so it is not among them.
std::vector<NamePair> gpt2_tensors(const ModelConfig& model);
// Whether a name, without the prefix, is one that older folders hold beside the weights and that means nothing: causal masks.
bool is_gpt2_mask(const std::string& name);

// config.json for a gpt. UsageError naming the key where GPT-2 cannot express the model.
std::string gpt2_config_json(const ModelConfig& model);

struct Gpt2Config {
  ModelConfig model;
  std::vector<std::string> notes;  // what in it makes no difference to logits, and is not taken over
};
// From the text of a config.json; `path` is for messages. EnvironmentError where the text is malformed, UsageError naming the key where
// it describes what our gpt does not compute.
Gpt2Config parse_gpt2_config(const std::string& text, const std::string& path);

}  // namespace lockstep::train
