// The layout of GPT-2 in Hugging Face's transformers.
#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "train/exchange/layout.h"

namespace lockstep::train {
namespace {

struct ActivationName {
  const char* theirs;
  Activation ours;
};
// Several names may mean the same activation. Export writes the first one.
constexpr std::array kActivations = {ActivationName{"gelu_new", Activation::gelu_tanh},
                                     ActivationName{"gelu_pytorch_tanh", Activation::gelu_tanh},
                                     ActivationName{"gelu", Activation::gelu},
                                     ActivationName{"relu", Activation::relu},
                                     ActivationName{"silu", Activation::silu},
                                     ActivationName{"swish", Activation::silu}};

Activation activation_from(const JsonValues& values) {
  const std::string theirs = values.text("activation_function", "gelu_new");
  for (const auto& name : kActivations)
    if (theirs == name.theirs) return name.ours;
  throw UsageError(str(values.path(), ": 'activation_function' is '", theirs,
                       "', expected gelu_new, gelu_pytorch_tanh, gelu, relu, silu or swish"));
}

std::string activation_to(Activation ours) {
  for (const auto& name : kActivations)
    if (ours == name.ours) return name.theirs;
  throw UsageError(str("model.activation '", ours, "' has no name in GPT-2's layout"));
}

std::vector<NamePair> tensors(const ModelConfig& model) {
  std::vector<NamePair> pairs = {{"transformer.wte.weight", "wte.weight"},
                                 {"transformer.wpe.weight", "wpe.weight"}};
  const auto both = [&](const std::string& theirs, const std::string& ours, bool transposed) {
    pairs.push_back({"transformer." + theirs + ".weight", ours + ".weight", transposed});
    pairs.push_back({"transformer." + theirs + ".bias", ours + ".bias"});
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

// The causal masks, which old files store.
bool is_constant(const std::string& name) {
  return name.starts_with("h.") &&
         (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

std::string to_config_json(const ModelConfig& model) {
  const nlohmann::ordered_json config = {{"architectures", {"GPT2LMHeadModel"}},
                                         {"model_type", "gpt2"},
                                         {"vocab_size", model.vocab},
                                         {"n_positions", model.block},
                                         {"n_embd", model.dim},
                                         {"n_layer", model.layers},
                                         {"n_head", model.heads},
                                         {"n_inner", nullptr},
                                         {"activation_function", activation_to(model.activation)},
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

// transformers accepts some keys under a second, general name, which takes precedence.
int64_t integer_of_two(const JsonValues& values, const char* key, const char* general,
                       int64_t missing) {
  const int64_t own = values.integer(key, missing);
  if (values.has(key)) values.demand(general, own);
  return values.integer(general, own);
}

ForeignModel from_config_json(const JsonValues& values) {
  ForeignModel result;
  ModelConfig& model = result.model;
  model.kind = ModelKind::gpt;
  model.vocab = values.integer("vocab_size", 50257);
  model.block = integer_of_two(values, "n_positions", "max_position_embeddings", 1024);
  model.dim = integer_of_two(values, "n_embd", "hidden_size", 768);
  model.layers = integer_of_two(values, "n_layer", "num_hidden_layers", 12);
  model.heads = integer_of_two(values, "n_head", "num_attention_heads", 12);
  model.activation = activation_from(values);
  model.norm_eps = values.number("layer_norm_epsilon", 1e-5);
  model.dropout = values.number("resid_pdrop", 0.1);
  model.scaled_residual_init = true;
  // Clamped to keep the product within int64.
  values.demand("n_inner", 4 * std::clamp<int64_t>(model.dim, 0, 1 << 30));
  values.demand("scale_attn_weights", true);
  values.demand("scale_attn_by_inverse_layer_idx", false);
  values.demand("tie_word_embeddings", true);
  const double embedding = values.number("embd_pdrop", 0.1),
               attention = values.number("attn_pdrop", 0.1);
  if (embedding != model.dropout)
    result.notes.push_back(str("embd_pdrop ", embedding,
                               " is ignored: model.dropout is resid_pdrop, ", model.dropout));
  if (attention > 0)
    result.notes.push_back(
        str("attn_pdrop ", attention, " is ignored: attention has no dropout here"));
  return result;
}

constexpr auto kIrrelevant = std::to_array<std::string_view>(
    {"n_ctx", "reorder_and_upcast_attn", "summary_type", "summary_use_proj", "summary_activation",
     "summary_proj_to_labels", "summary_first_dropout"});
constexpr auto kKeys = std::to_array<KeyPair>({{"vocab_size", "model.vocab"},
                                               {"n_positions", "model.block"},
                                               {"n_embd", "model.dim"},
                                               {"n_layer", "model.layers"},
                                               {"n_head", "model.heads"},
                                               {"activation_function", "model.activation"},
                                               {"layer_norm_epsilon", "model.norm_eps"},
                                               {"resid_pdrop", "model.dropout"}});

}  // namespace

const Layout kGpt2Layout = {.format = "hf-gpt2",
                            .model_type = "gpt2",
                            .kind = ModelKind::gpt,
                            .prefix = "transformer.",
                            .irrelevant = kIrrelevant,
                            .keys = kKeys,
                            .tensors = tensors,
                            .is_constant = is_constant,
                            .to_config_json = to_config_json,
                            .from_config_json = from_config_json};

}  // namespace lockstep::train
