// The layout of Llama in Hugging Face's transformers.
#include <array>

#include "core/base/error.h"
#include "train/exchange/layout.h"

namespace lockstep::train {
namespace {

std::vector<NamePair> tensors(const ModelConfig& model) {
  std::vector<NamePair> pairs = {{"model.embed_tokens.weight", "wte.weight"}};
  for (int64_t i = 0; i < model.layers; ++i) {
    const auto add = [&](const char* theirs, const char* ours) {
      pairs.push_back({str("model.layers.", i, ".", theirs, ".weight"),
                       str("blocks.", i, ".", ours, ".weight")});
    };
    add("input_layernorm", "ln1");
    add("self_attn.q_proj", "q");
    add("self_attn.k_proj", "k");
    add("self_attn.v_proj", "v");
    add("self_attn.o_proj", "proj");
    add("post_attention_layernorm", "ln2");
    add("mlp.gate_proj", "gate");
    add("mlp.up_proj", "up");
    add("mlp.down_proj", "out");
  }
  pairs.push_back({"model.norm.weight", "lnf.weight"});
  if (!model.tied_head) pairs.push_back({"lm_head.weight", "head.weight"});
  return pairs;
}

bool is_constant(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

std::string to_config_json(const ModelConfig& model) {
  const nlohmann::ordered_json config = {{"architectures", {"LlamaForCausalLM"}},
                                         {"model_type", "llama"},
                                         {"vocab_size", model.vocab},
                                         {"max_position_embeddings", model.block},
                                         {"hidden_size", model.dim},
                                         {"intermediate_size", model.feed_forward_width()},
                                         {"num_hidden_layers", model.layers},
                                         {"num_attention_heads", model.heads},
                                         {"num_key_value_heads", model.key_value_heads()},
                                         {"hidden_act", "silu"},
                                         {"rms_norm_eps", model.norm_eps},
                                         {"rope_theta", model.rope_theta},
                                         {"rope_scaling", nullptr},
                                         {"attention_bias", false},
                                         {"mlp_bias", false},
                                         {"tie_word_embeddings", model.tied_head},
                                         {"initializer_range", 0.02},
                                         {"bos_token_id", nullptr},
                                         {"eos_token_id", nullptr},
                                         {"torch_dtype", "float32"}};
  return config.dump(2) + "\n";
}

// Refuses all rotary positions except plain ones. Older folders describe them in "rope_scaling",
// with the base beside it. Newer ones put both into "rope_parameters". "rope_type" was once
// "type".
void demand_plain_rope(const JsonValues& rope) {
  // Only scaled rotary positions read these keys.
  static constexpr auto irrelevant =
      std::to_array<std::string_view>({"original_max_position_embeddings"});
  for (const char* key : {"rope_type", "type"}) rope.demand(key, "default");
  for (const char* key : {"factor", "attention_factor", "partial_rotary_factor"})
    rope.demand(key, 1.0);
  rope.has("rope_theta");
  rope.refuse_others(irrelevant);
}

double rope_theta(const JsonValues& values) {
  check(!values.has("rope_scaling") || !values.has("rope_parameters"), values.path(),
        ": expected 'rope_scaling' or 'rope_parameters', got both");
  values.demand("partial_rotary_factor", 1.0);
  double theta = values.number("rope_theta", 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!values.has(key)) continue;
    const JsonValues rope = values.object(key);
    demand_plain_rope(rope);
    // Versions of transformers differ in which of two bases they use. Older ones never read the
    // base in "rope_scaling".
    if (values.has("rope_theta") || std::string_view(key) == "rope_scaling")
      rope.demand("rope_theta", theta);
    theta = rope.number("rope_theta", theta);
  }
  return theta;
}

// Newer folders may list each layer's kind of attention. All must be full attention.
void demand_full_attention(const JsonValues& values, int64_t layers) {
  if (layers >= 0 && layers <= 10000)
    values.demand("layer_types",
                  std::vector<std::string>(static_cast<size_t>(layers), "full_attention"));
}

ForeignModel from_config_json(const JsonValues& values) {
  ForeignModel result;
  ModelConfig& model = result.model;
  model.kind = ModelKind::llama;
  model.vocab = values.integer("vocab_size", 32000);
  model.block = values.integer("max_position_embeddings", 2048);
  model.dim = values.integer("hidden_size", 4096);
  model.hidden = values.integer("intermediate_size", 11008);
  model.layers = values.integer("num_hidden_layers", 32);
  model.heads = values.integer("num_attention_heads", 32);
  model.kv_heads = values.integer("num_key_value_heads", model.heads);
  model.norm_eps = values.number("rms_norm_eps", 1e-6);
  model.rope_theta = rope_theta(values);
  model.tied_head = values.boolean("tie_word_embeddings", false);
  model.dropout = 0;
  if (values.text("hidden_act", "silu") != "swish")
    values.demand("hidden_act", "silu");  // two names of one function
  values.demand("attention_bias", false);
  values.demand("mlp_bias", false);
  values.demand("rope_interleaved", false);
  if (model.heads > 0) values.demand("head_dim", model.dim / model.heads);
  demand_full_attention(values, model.layers);
  // In our config 0 means a default, but in config.json a 0 is an error.
  for (const char* key : {"intermediate_size", "num_key_value_heads"})
    check(values.integer(key, 1) != 0, values.path(), ": '", key, "': expected at least 1, got 0");
  if (const double attention = values.number("attention_dropout", 0); attention > 0)
    result.notes.push_back(
        str("attention_dropout ", attention, " is ignored: attention has no dropout here"));
  return result;
}

// "pretraining_tp" splits matrix products into parts with the same sum.
constexpr auto kIrrelevant = std::to_array<std::string_view>(
    {"pretraining_tp", "is_llama_config", "original_max_position_embeddings"});
constexpr auto kKeys = std::to_array<KeyPair>({{"vocab_size", "model.vocab"},
                                               {"max_position_embeddings", "model.block"},
                                               {"hidden_size", "model.dim"},
                                               {"intermediate_size", "model.hidden"},
                                               {"num_hidden_layers", "model.layers"},
                                               {"num_attention_heads", "model.heads"},
                                               {"num_key_value_heads", "model.kv_heads"},
                                               {"rms_norm_eps", "model.norm_eps"},
                                               {"rope_theta", "model.rope_theta"},
                                               {"tie_word_embeddings", "model.tied_head"}});

}  // namespace

const Layout kLlamaLayout = {.format = "hf-llama",
                             .model_type = "llama",
                             .kind = ModelKind::llama,
                             .prefix = "model.",
                             .irrelevant = kIrrelevant,
                             .keys = kKeys,
                             .tensors = tensors,
                             .is_constant = is_constant,
                             .to_config_json = to_config_json,
                             .from_config_json = from_config_json};

}  // namespace lockstep::train
