// What a saved model computes: logits and loss of given tokens, or its loss on data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"
#include "train/run/saved_model.h"

namespace lockstep::train {

// Mean loss over the first `batches` evaluation micro-batches of the config's data (0:
// train.eval_batches): nats per token, or per sample where there are none. In the config's
// precision, and with the bits that training reports as val_loss.
double evaluate_on_data(const SavedModel& model, int64_t batches = 0);

struct TokenEvaluation {
  Tensor logits;    // f32 [T, vocab]
  double loss = 0;  // of each token but the first, given those before it: mean, in nats; NaN for a
                    // single token
};
// Of a language model (gpt, llama). Throws UsageError for no tokens, more than model.block, or one
// outside of the vocabulary.
TokenEvaluation evaluate_tokens(const SavedModel& model, const std::vector<int32_t>& tokens);

// Token ids: "1, 2 3", or JSON: a list, or an object with a list "input_ids". Throws UsageError
// naming `what` it came from.
std::vector<int32_t> parse_token_ids(const std::string& text, const std::string& what);

// Writes tokens, logits and loss to a new file: JSON {"input_ids", "loss", "logits"} where the name
// ends with .json, else safetensors with "input_ids" (i32 [T]) and "logits". UsageError where the
// file exists. It has its name only once it is whole and on disk.
void write_logits(const std::string& path, const std::vector<int32_t>& tokens,
                  const TokenEvaluation& evaluation);

}  // namespace lockstep::train
