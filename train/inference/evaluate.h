// What a saved model computes: logits and loss of given tokens, or its loss on data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"
#include "train/run/saved_model.h"

namespace lockstep::train {

// Mean loss over the first `batches` evaluation micro-batches of the config's data (0:
// train.eval_batches). In nats per token, or per sample if there are no tokens. Uses the config's
// precision. The bits equal the val_loss that training reports.
double evaluate_on_data(const SavedModel& model, int64_t batches = 0);

struct TokenEvaluation {
  Tensor logits;  // f32 [T, vocab]
  // Mean loss in nats over all tokens but the first, each predicted from those before it. NaN for a
  // single token.
  double loss = 0;
};
// For a language model (gpt, llama). Throws UsageError for no tokens, for more than model.block, or
// for a token outside of the vocabulary.
TokenEvaluation evaluate_tokens(const SavedModel& model, const std::vector<int32_t>& tokens);

// Parses token ids: "1, 2 3", or JSON, either a list or an object with a list "input_ids". Throws
// UsageError that names the source `what`.
std::vector<int32_t> parse_token_ids(const std::string& text, const std::string& what);

// Writes tokens, logits and loss to a new file. If the name ends with .json, writes JSON
// {"input_ids", "loss", "logits"}, else safetensors with "input_ids" (i32 [T]) and "logits". The
// file gets its name only once it is complete and on disk. Throws UsageError if the file exists.
void write_logits(const std::string& path, const std::vector<int32_t>& tokens,
                  const TokenEvaluation& evaluation);

}  // namespace lockstep::train
