// How other programs store a model: names and layouts of its tensors beside ours, and its
// config.json (docs/formats/huggingface.md). Each kind of model with a counterpart has one layout.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/config/config.h"
#include "train/exchange/json_values.h"

namespace lockstep::train {

// A tensor under both names. `transposed`: theirs is [in, out] (transformers' Conv1D), ours is
// [out, in].
struct NamePair {
  std::string theirs, ours;
  bool transposed = false;
};

// A key under both names: "n_embd", "model.dim".
struct KeyPair {
  std::string_view theirs, ours;
};

// A model as their config.json describes it.
struct ForeignModel {
  ModelConfig model;
  std::vector<std::string> notes;  // what was not taken over, because it changes no logits
};

struct Layout {
  std::string_view format;      // as `lockstep checkpoint export --format` names it: "hf-gpt2"
  std::string_view model_type;  // in config.json: "gpt2"
  ModelKind kind;               // model.kind
  std::string_view prefix;      // of most names; folders of a model without a head lack it

  // Keys of this model's config.json that change no logits, in addition to irrelevant_keys().
  std::span<const std::string_view> irrelevant;
  // Which key of config.json decides which of our keys, for messages.
  std::span<const KeyPair> keys;

  // All tensors of the model, without a tied head.
  std::vector<NamePair> (*tensors)(const ModelConfig& model);
  // Whether a name (without the prefix) is a constant that older folders hold beside the weights
  // and that can be ignored.
  bool (*is_constant)(const std::string& name);
  // Throws UsageError that names the key if the layout cannot express the model.
  std::string (*to_config_json)(const ModelConfig& model);
  // Throws UsageError that names the key if config.json describes what our model does not compute.
  // parse_config_json() calls it and then refuses every key that was not read.
  ForeignModel (*from_config_json)(const JsonValues& values);
};

extern const Layout kGpt2Layout, kLlamaLayout;

// Throws UsageError that lists the choices.
const Layout& layout_of_format(std::string_view format);
const Layout& layout_of_kind(ModelKind kind);
// Parses the text of a config.json. `path` is for messages. Throws EnvironmentError if the text is
// malformed, UsageError if no layout fits.
struct Described {
  const Layout& layout;
  ForeignModel model;
};
Described parse_config_json(const std::string& text, const std::string& path);

}  // namespace lockstep::train
