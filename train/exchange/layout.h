// How other programs keep a model: names and layouts of its tensors beside ours, and its
// config.json (docs/formats/huggingface.md). One layout for each kind of model that has a
// counterpart.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/config/config.h"
#include "train/exchange/json_values.h"

namespace lockstep::train {

// A tensor under both names. `transposed`: theirs is [in, out] (transformers' Conv1D) where ours is
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
  std::vector<std::string> notes;  // what in it changes no logits, and is not taken over
};

struct Layout {
  std::string_view format;      // as `lockstep checkpoint export --format` names it: "hf-gpt2"
  std::string_view model_type;  // in config.json: "gpt2"
  ModelKind kind;               // model.kind
  std::string_view prefix;      // of most names; folders of a model without a head lack it

  // Of config.json: keys of this model that change no logits, beside irrelevant_keys().
  std::span<const std::string_view> irrelevant;
  // Which key of config.json decides which key of ours, for messages.
  std::span<const KeyPair> keys;

  // All tensors of the model. A tied head is not among them.
  std::vector<NamePair> (*tensors)(const ModelConfig& model);
  // Whether a name, without the prefix, is one that older folders hold beside the weights and that
  // means nothing.
  bool (*is_constant)(const std::string& name);
  // UsageError naming the key where the layout cannot express the model.
  std::string (*to_config_json)(const ModelConfig& model);
  // UsageError naming the key where config.json describes what our model does not compute.
  // parse_config_json() calls it, and refuses every key that nobody asked for.
  ForeignModel (*from_config_json)(const JsonValues& values);
};

extern const Layout kGpt2Layout, kLlamaLayout;

// UsageError that lists what there is.
const Layout& layout_of_format(std::string_view format);
const Layout& layout_of_kind(ModelKind kind);
// From the text of a config.json; `path` is for messages. EnvironmentError where the text is
// malformed, UsageError where no layout fits.
struct Described {
  const Layout& layout;
  ForeignModel model;
};
Described parse_config_json(const std::string& text, const std::string& path);

}  // namespace lockstep::train
