// Llama's layout in Hugging Face's transformers.
#include "core/base/error.h"
#include "train/exchange/layout.h"

namespace lockstep::train {
namespace {

std::vector<NamePair> tensors(const ModelConfig& model) {
  std::vector<NamePair> pairs = {{"model.embed_tokens.weight", "wte.weight"}};
  for (int64_t i = 0; i < model.layers; ++i) {
    const auto add = [&](const char* theirs, const char* ours) {
      pairs.push_back({str("model.layers.", i, ".", theirs, ".weight"), str("blocks.", i, ".", ours, ".weight")});
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

// Newer folders keep both in "rope_parameters".
double rope_theta(const JsonValues& values) {
  check(!values.has("rope_scaling") || values.object("rope_scaling").text("rope_type", "default") == "default", values.path(),
        ": 'rope_scaling' is not computed here: expected none");
  if (!values.has("rope_parameters")) return values.number("rope_theta", 10000.0);
  const JsonValues rope = values.object("rope_parameters");
  rope.demand("rope_type", "default");
  return rope.number("rope_theta", values.number("rope_theta", 10000.0));
}

ForeignModel from_config_json(const JsonValues& values) {
  ForeignModel result;
  ModelConfig& model = result.model;
  model.kind = "llama";
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
  values.demand("hidden_act", "silu");
  values.demand("attention_bias", false);
  values.demand("mlp_bias", false);
  if (model.heads > 0) values.demand("head_dim", model.dim / model.heads);
  return result;
}

}  // namespace

const Layout kLlamaLayout = {.format = "hf-llama",
                             .model_type = "llama",
                             .kind = "llama",
                             .prefix = "model.",
                             .tensors = tensors,
                             .is_constant = is_constant,
                             .to_config_json = to_config_json,
                             .from_config_json = from_config_json};

}  // namespace lockstep::train
