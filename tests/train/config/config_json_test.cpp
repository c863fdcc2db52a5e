// config.json of other programs: every key of it is known, known to change nothing, or refused.
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_of.h"
#include "train/exchange/layout.h"

namespace lockstep::train {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ForeignModel parsed(const std::string& type, const std::string& fields) {
  return parse_config_json(
             R"({"model_type": ")" + type + "\"" + (fields.empty() ? "" : ", " + fields) + "}",
             "config.json")
      .model;
}
// What the parser says of these fields, in a GPT-2 and in a Llama.
std::string gpt2(const std::string& fields) {
  return error_of([&] { parsed("gpt2", fields); });
}
std::string llama(const std::string& fields) {
  return error_of([&] { parsed("llama", fields); });
}

struct Refused {
  const char *fields, *key;  // the key as the message names it
};
class RefusedByLlama : public ::testing::TestWithParam<Refused> {};
TEST_P(RefusedByLlama, NamesTheKey) {
  EXPECT_THAT(llama(GetParam().fields), AllOf(HasSubstr("config.json: "),
                                              HasSubstr(std::string("'") + GetParam().key + "'")));
}
INSTANTIATE_TEST_SUITE_P(
    Rope, RefusedByLlama,
    ::testing::Values(
        Refused{R"("rope_scaling": {"type": "linear", "factor": 2.0})", "rope_scaling.type"},
        Refused{R"("rope_scaling": {"type": "dynamic", "factor": 2.0})", "rope_scaling.type"},
        Refused{R"("rope_scaling": {"type": "yarn", "factor": 4.0})", "rope_scaling.type"},
        Refused{R"("rope_scaling": {"rope_type": "default", "type": "linear"})",
                "rope_scaling.type"},
        Refused{R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0})",
                "rope_scaling.rope_type"},
        Refused{R"("rope_scaling": {"rope_type": "longrope"})", "rope_scaling.rope_type"},
        Refused{R"("rope_scaling": {"factor": 2.0})", "rope_scaling.factor"},
        Refused{R"("rope_scaling": {"mrope_section": [1, 2, 3]})", "rope_scaling.mrope_section"},
        Refused{R"("rope_scaling": "linear")", "rope_scaling"},
        Refused{R"("rope_scaling": {"rope_type": "default", "rope_theta": 5e5})",
                "rope_scaling.rope_theta"},
        Refused{R"("rope_parameters": {"type": "linear", "factor": 2.0})", "rope_parameters.type"},
        Refused{R"("rope_parameters": {"rope_type": "yarn"})", "rope_parameters.rope_type"},
        Refused{R"("rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5})",
                "rope_parameters.partial_rotary_factor"},
        Refused{R"("rope_parameters": {"full_attention": {"rope_type": "default"}})",
                "rope_parameters.full_attention"},
        Refused{R"("rope_parameters": {"rope_theta": 5e5}, "rope_theta": 1e4)",
                "rope_parameters.rope_theta"},
        Refused{
            R"("rope_parameters": {"rope_theta": 5e5}, "rope_scaling": {"rope_type": "default"})",
            "rope_scaling"},
        Refused{R"("partial_rotary_factor": 0.5)", "partial_rotary_factor"},
        Refused{R"("rope_interleaved": true)", "rope_interleaved"}));
INSTANTIATE_TEST_SUITE_P(
    Others, RefusedByLlama,
    ::testing::Values(
        Refused{R"("hidden_act": "gelu")", "hidden_act"},
        Refused{R"("attention_bias": true)", "attention_bias"},
        Refused{R"("mlp_bias": true)", "mlp_bias"},
        Refused{R"("sliding_window": 4096)", "sliding_window"},
        Refused{R"("use_sliding_window": true)", "use_sliding_window"},
        Refused{R"("num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"])",
                "layer_types"},
        Refused{R"("quantization_config": {"quant_method": "gptq"})", "quantization_config"},
        Refused{R"("attention_multiplier": 0.1)", "attention_multiplier"},
        Refused{R"("embedding_multiplier": 12.0)", "embedding_multiplier"},
        Refused{R"("residual_multiplier": 0.2)", "residual_multiplier"},
        Refused{R"("logits_scaling": 8.0)", "logits_scaling"},
        Refused{R"("final_logit_softcapping": 30.0)", "final_logit_softcapping"},
        Refused{R"("is_causal": false)", "is_causal"},
        Refused{R"("per_layer_config": {"0": {}})", "per_layer_config"},
        Refused{R"("auto_map": {"AutoModel": "modeling_x.X"})", "auto_map"},
        Refused{R"("transformers_weights": "other.safetensors")", "transformers_weights"},
        Refused{R"("intermediate_size": 0)", "intermediate_size"},
        Refused{R"("num_key_value_heads": 0)", "num_key_value_heads"},
        // GPT-2's names mean nothing to a Llama.
        Refused{R"("n_embd": 64)", "n_embd"},
        Refused{R"("layer_norm_epsilon": 1e-3)", "layer_norm_epsilon"}));

class RefusedByGpt2 : public ::testing::TestWithParam<Refused> {};
TEST_P(RefusedByGpt2, NamesTheKey) {
  EXPECT_THAT(gpt2(GetParam().fields), AllOf(HasSubstr("config.json: "),
                                             HasSubstr(std::string("'") + GetParam().key + "'")));
}
INSTANTIATE_TEST_SUITE_P(
    All, RefusedByGpt2,
    ::testing::Values(Refused{R"("scale_attn_by_inverse_layer_idx": true)",
                              "scale_attn_by_inverse_layer_idx"},
                      Refused{R"("scale_attn_weights": false)", "scale_attn_weights"},
                      Refused{R"("scale_attn_weights": null)", "scale_attn_weights"},
                      Refused{R"("tie_word_embeddings": null)", "tie_word_embeddings"},
                      Refused{R"("add_cross_attention": true)", "add_cross_attention"},
                      Refused{R"("is_encoder_decoder": true)", "is_encoder_decoder"},
                      Refused{R"("pruned_heads": {"0": [1]})", "pruned_heads"},
                      Refused{R"("n_embd": 64, "hidden_size": 128)", "hidden_size"},
                      Refused{R"("n_layer": 2, "num_hidden_layers": 3)", "num_hidden_layers"},
                      Refused{R"("layer_norm_eps": 1e-3)", "layer_norm_eps"},
                      Refused{R"("rope_theta": 1e4)", "rope_theta"},
                      Refused{R"("head_dim": 32)", "head_dim"},
                      Refused{R"("multi_query": true)", "multi_query"}));

TEST(ConfigJson, NumbersAreTakenAsTheyStand) {
  for (const char* value : {"18446744073709551615", "9223372036854775808"})
    EXPECT_THAT(
        llama(std::string(R"("vocab_size": )") + value),
        AllOf(HasSubstr("'vocab_size': expected an integer of at most 63 bits"), HasSubstr(value)));
  EXPECT_EQ(parsed("llama", R"("vocab_size": 9223372036854775807)").model.vocab,
            std::numeric_limits<int64_t>::max());
  for (const char* value : {"1e3", "true", "\"64\"", "18446744073709551616"})
    EXPECT_THAT(llama(std::string(R"("hidden_size": )") + value),
                HasSubstr("'hidden_size': expected an integer, got "))
        << value;
}

TEST(ConfigJson, UnknownKeysAreNamedTogether) {
  EXPECT_THAT(llama(R"("qk_rope": 1, "max_window_layers": 2, "sparsity_config": null)"),
              AllOf(HasSubstr("'max_window_layers', 'qk_rope': not known here"),
                    HasSubstr("remove it"), Not(HasSubstr("sparsity_config"))));
}

TEST(ConfigJson, PlainRopeInEverySpelling) {
  for (
      const char* fields :
      {R"("rope_theta": 5e5)", R"("rope_theta": 500000, "rope_scaling": null)",
       R"("rope_scaling": {"rope_type": "default"}, "rope_theta": 5e5)",
       R"("rope_scaling": {"type": "default", "factor": null, "rope_theta": 5e5}, "rope_theta": 5e5)",
       R"("rope_scaling": {"rope_type": "default", "type": "default", "factor": 1}, "rope_theta": 5e5)",
       R"("rope_parameters": {"rope_type": "default", "rope_theta": 5e5})",
       R"("rope_parameters": {"rope_theta": 5e5, "type": null})",
       R"("rope_parameters": {"rope_theta": 5e5, "partial_rotary_factor": 1.0}, "rope_theta": 500000)"}) {
    ASSERT_EQ(llama(fields), "(no error)") << fields;
    EXPECT_EQ(parsed("llama", fields).model.rope_theta, 5e5) << fields;
  }
  EXPECT_EQ(parsed("llama", R"("rope_scaling": {})").model.rope_theta, 1e4);
}

TEST(ConfigJson, WhatTransformersItselfWritesIsTaken) {
  EXPECT_EQ(
      gpt2(
          R"("_name_or_path": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "gradient_checkpointing": false, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_inner": null, "n_layer": 12, "n_positions": 1024,
    "reorder_and_upcast_attn": false, "resid_pdrop": 0.1, "scale_attn_by_inverse_layer_idx": false, "scale_attn_weights": true,
    "summary_activation": null, "summary_first_dropout": 0.1, "summary_proj_to_labels": true, "summary_type": "cls_index",
    "summary_use_proj": true, "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}},
    "torch_dtype": "float32", "transformers_version": "4.27.1", "use_cache": true, "vocab_size": 50257)"),
      "(no error)");
  EXPECT_EQ(
      llama(
          R"("_name_or_path": "x", "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128009], "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
    "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 8192, "mlp_bias": false,
    "num_attention_heads": 32, "num_hidden_layers": 2, "num_key_value_heads": 8, "pad_token_id": null, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": null, "rope_theta": 500000.0, "tie_word_embeddings": false, "dtype": "bfloat16",
    "transformers_version": "4.57.0", "use_cache": true, "vocab_size": 128256, "layer_types": ["full_attention", "full_attention"])"),
      "(no error)");
}

// Keys that describe another model unless they have one value, which older versions wrote out.
TEST(ConfigJson, NeutralValuesAreTaken) {
  const std::string neutral =
      R"("is_encoder_decoder": false, "tie_encoder_decoder": false, "add_cross_attention": false,
    "pruned_heads": {}, "is_causal": true, "use_sliding_window": false, "alibi": false, "parallel_attn": false,
    "use_parallel_residual": false, "use_qk_norm": false, "qk_layernorm": false, "lm_head_bias": false, "embedding_multiplier": 1,
    "residual_multiplier": 1.0, "logits_scaling": 1.0, "logit_scale": 1.0)";
  EXPECT_EQ(gpt2(neutral), "(no error)");
  EXPECT_EQ(llama(neutral), "(no error)");
}

TEST(ConfigJson, Gpt2KnowsGeneralNames) {
  const ModelConfig model =
      parsed(
          "gpt2",
          R"("hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": 32, "n_embd": 64)")
          .model;
  EXPECT_EQ(model.dim, 64);
  EXPECT_EQ(model.layers, 3);
  EXPECT_EQ(model.heads, 4);
  EXPECT_EQ(model.block, 32);
}

TEST(ConfigJson, WhatWeExportIsTaken) {
  ModelConfig gpt{.kind = ModelKind::gpt}, other{.kind = ModelKind::llama};
  EXPECT_EQ(error_of([&] { parse_config_json(kGpt2Layout.to_config_json(gpt), "c"); }),
            "(no error)");
  EXPECT_EQ(error_of([&] { parse_config_json(kLlamaLayout.to_config_json(other), "c"); }),
            "(no error)");
}

}  // namespace
}  // namespace lockstep::train
