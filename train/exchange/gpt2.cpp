#include "train/exchange/gpt2.h"

#include <array>

#include <nlohmann/json.hpp>

#include "checkpoint/strict_json.h"
#include "core/base/error.h"

namespace lockstep::train {
namespace {

using nlohmann::json;

struct ActivationName {
  const char *theirs, *ours;
};
// The first name of ours is the one that is written.
constexpr std::array kActivations = {ActivationName{"gelu_new", "gelu_tanh"}, ActivationName{"gelu_pytorch_tanh", "gelu_tanh"},
                                     ActivationName{"gelu", "gelu"},          ActivationName{"relu", "relu"},
                                     ActivationName{"silu", "silu"},          ActivationName{"swish", "silu"}};

// The values of a config.json, with transformers' defaults for what it leaves out.
class Fields {
 public:
  Fields(const json& value, const std::string& path) : value_(value), path_(path) {}

  bool has(const char* key) const { return value_.contains(key) && !value_[key].is_null(); }
  int64_t integer(const char* key, int64_t missing) const {
    if (!has(key)) return missing;
    if (!value_[key].is_number_integer()) fail(key, "an integer");
    return value_[key].get<int64_t>();
  }
  double number(const char* key, double missing) const {
    if (!has(key)) return missing;
    if (!value_[key].is_number()) fail(key, "a number");
    return value_[key].get<double>();
  }
  bool boolean(const char* key, bool missing) const {
    if (!has(key)) return missing;
    if (!value_[key].is_boolean()) fail(key, "true or false");
    return value_[key].get<bool>();
  }
  std::string text(const char* key, const char* missing) const {
    if (!has(key)) return missing;
    if (!value_[key].is_string()) fail(key, "a string");
    return value_[key].get<std::string>();
  }
  // Refuses every value but one.
  void demand(const char* key, bool value) const {
    check(boolean(key, value) == value, path_, ": '", key, "' is ", value ? "false" : "true", ", which lockstep's gpt does not compute");
  }
  const std::string& path() const { return path_; }

 private:
  [[noreturn]] void fail(const char* key, const char* expected) const {
    throw UsageError(str(path_, ": '", key, "': expected ", expected, ", got ", value_[key].dump().substr(0, 60)));
  }
  const json& value_;
  const std::string& path_;
};

std::string activation_from(const Fields& fields) {
  const std::string theirs = fields.text("activation_function", "gelu_new");
  for (const auto& name : kActivations)
    if (theirs == name.theirs) return name.ours;
  throw UsageError(
      str(fields.path(), ": 'activation_function' is '", theirs, "', expected gelu_new, gelu_pytorch_tanh, gelu, relu, silu or swish"));
}

void check_computable(const Fields& fields, const ModelConfig& model) {
  fields.demand("scale_attn_weights", true);
  fields.demand("scale_attn_by_inverse_layer_idx", false);
  fields.demand("add_cross_attention", false);
  fields.demand("tie_word_embeddings", true);
  const int64_t inner = fields.integer("n_inner", 4 * model.dim);
  check(inner == 4 * model.dim, fields.path(), ": 'n_inner' is ", inner,
        ", but lockstep's gpt has feed-forward parts of 4·n_embd = ", 4 * model.dim);
}

}  // namespace

std::vector<NamePair> gpt2_tensors(const ModelConfig& model) {
  std::vector<NamePair> pairs = {{"wte.weight", "wte.weight"}, {"wpe.weight", "wpe.weight"}};
  const auto both = [&](const std::string& theirs, const std::string& ours, bool transposed) {
    pairs.push_back({theirs + ".weight", ours + ".weight", transposed});
    pairs.push_back({theirs + ".bias", ours + ".bias"});
  };
  for (int64_t i = 0; i < model.layers; ++i) {
    const std::string h = str("h.", i, "."), block = str("blocks.", i, ".");
    both(h + "ln_1", block + "ln1", false);
    both(h + "attn.c_attn", block + "qkv", true);
    both(h + "attn.c_proj", block + "proj", true);
    both(h + "ln_2", block + "ln2", false);
    both(h + "mlp.c_fc", block + "fc", true);
    both(h + "mlp.c_proj", block + "out", true);
  }
  both("ln_f", "lnf", false);
  return pairs;
}

bool is_gpt2_mask(const std::string& name) {
  return name.starts_with("h.") && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

std::string gpt2_config_json(const ModelConfig& model) {
  check(model.kind == "gpt", "GPT-2's layout is for model.kind gpt, and this one is '", model.kind, "': use --format safetensors");
  std::string activation;
  for (auto name = kActivations.rbegin(); name != kActivations.rend(); ++name)
    if (model.activation == name->ours) activation = name->theirs;
  nlohmann::ordered_json config = {{"architectures", {"GPT2LMHeadModel"}},
                                   {"model_type", "gpt2"},
                                   {"vocab_size", model.vocab},
                                   {"n_positions", model.block},
                                   {"n_embd", model.dim},
                                   {"n_layer", model.layers},
                                   {"n_head", model.heads},
                                   {"n_inner", nullptr},
                                   {"activation_function", activation},
                                   {"embd_pdrop", model.dropout},
                                   {"resid_pdrop", model.dropout},
                                   {"attn_pdrop", 0.0},
                                   {"layer_norm_epsilon", model.norm_eps},
                                   {"initializer_range", 0.02},
                                   {"scale_attn_weights", true},
                                   {"tie_word_embeddings", true},
                                   {"bos_token_id", nullptr},
                                   {"eos_token_id", nullptr},
                                   {"torch_dtype", "float32"}};
  return config.dump(2) + "\n";
}

Gpt2Config parse_gpt2_config(const std::string& text, const std::string& path) {
  const json value = checkpoint::parse_strict_json(text, path);
  check(value.is_object(), path, ": expected an object");
  const Fields fields(value, path);
  const std::string type = fields.text("model_type", "");
  check(type == "gpt2", path, ": 'model_type' is '", type, "'; lockstep reads gpt2");
  Gpt2Config result;
  ModelConfig& model = result.model;
  model.kind = "gpt";
  model.vocab = fields.integer("vocab_size", 50257);
  model.block = fields.integer("n_positions", 1024);
  model.dim = fields.integer("n_embd", 768);
  model.layers = fields.integer("n_layer", 12);
  model.heads = fields.integer("n_head", 12);
  model.activation = activation_from(fields);
  model.norm_eps = fields.number("layer_norm_epsilon", 1e-5);
  model.dropout = fields.number("resid_pdrop", 0.1);
  model.scaled_residual_init = true;
  check_computable(fields, model);
  const double embedding = fields.number("embd_pdrop", 0.1), attention = fields.number("attn_pdrop", 0.1);
  if (embedding != model.dropout)
    result.notes.push_back(str("embd_pdrop ", embedding, " is not taken over: model.dropout is resid_pdrop, ", model.dropout));
  if (attention > 0) result.notes.push_back(str("attn_pdrop ", attention, " is not taken over: attention has no dropout here"));
  return result;
}

}  // namespace lockstep::train
