#include "train/exchange/transformers_keys.h"

#include <array>
#include <utility>

namespace lockstep::train {

std::span<const std::string_view> irrelevant_keys() {
  static constexpr std::array keys = std::to_array<std::string_view>({
      // Names, versions and the stored type: weights of any type become f32 here.
      "model_type",
      "architectures",
      "_name_or_path",
      "name_or_path",
      "_commit_hash",
      "transformers_version",
      "transformers.js_config",
      "torch_dtype",
      "dtype",
      "unsloth_version",
      "unsloth_fixed",
      // Initial values for training from nothing.
      "initializer_range",
      // Special tokens, and the tokenizer.
      "bos_token_id",
      "eos_token_id",
      "pad_token_id",
      "sep_token_id",
      "unk_token_id",
      "decoder_start_token_id",
      "tokenizer_class",
      "prefix",
      "max_sequence_length",
      // Generation, which newer versions keep in generation_config.json.
      "use_cache",
      "cache_implementation",
      "max_length",
      "max_new_tokens",
      "min_length",
      "min_new_tokens",
      "do_sample",
      "early_stopping",
      "num_beams",
      "num_beam_groups",
      "diversity_penalty",
      "penalty_alpha",
      "temperature",
      "top_k",
      "top_p",
      "min_p",
      "typical_p",
      "epsilon_cutoff",
      "eta_cutoff",
      "repetition_penalty",
      "encoder_repetition_penalty",
      "length_penalty",
      "no_repeat_ngram_size",
      "encoder_no_repeat_ngram_size",
      "bad_words_ids",
      "num_return_sequences",
      "output_scores",
      "output_logits",
      "return_dict_in_generate",
      "forced_bos_token_id",
      "forced_eos_token_id",
      "remove_invalid_values",
      "exponential_decay_length_penalty",
      "suppress_tokens",
      "begin_suppress_tokens",
      "task_specific_params",
      // Classifiers.
      "finetuning_task",
      "problem_type",
      "num_labels",
      "id2label",
      "label2id",
      "classifier_dropout",
      // What is returned, and how it is computed.
      "return_dict",
      "output_hidden_states",
      "output_attentions",
      "output_past",
      "torchscript",
      "use_bfloat16",
      "tf_legacy_loss",
      "is_decoder",
      "chunk_size_feed_forward",
      "gradient_checkpointing",
      "attn_implementation",
      "_attn_implementation",
      "_attn_implementation_autoset",
      "_attn_implementation_internal",
      "_flash_attn_2_enabled",
      "experts_implementation",
  });
  return keys;
}

void demand_neutral_keys(const JsonValues& values) {
  using Neutral = std::pair<const char*, nlohmann::json>;
  static const std::array neutral = {
      Neutral{"is_encoder_decoder", false},
      Neutral{"tie_encoder_decoder", false},
      Neutral{"add_cross_attention", false},
      Neutral{"pruned_heads", nlohmann::json::object()},
      // Keys of related models.
      Neutral{"is_causal", true},
      Neutral{"use_sliding_window", false},
      Neutral{"alibi", false},
      Neutral{"parallel_attn", false},
      Neutral{"use_parallel_residual", false},
      Neutral{"use_qk_norm", false},
      Neutral{"qk_layernorm", false},
      Neutral{"lm_head_bias", false},
      Neutral{"embedding_multiplier", 1.0},
      Neutral{"residual_multiplier", 1.0},
      Neutral{"logits_scaling", 1.0},
      Neutral{"logit_scale", 1.0},
  };
  for (const auto& [key, value] : neutral) values.demand(key, value);
}

}  // namespace lockstep::train
