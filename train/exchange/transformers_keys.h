// Keys of config.json that every model of Hugging Face's transformers may have (class
// PretrainedConfig), sorted by their effect on the logits of a causal language model. A layout adds
// the keys of its own model.
#pragma once

#include <span>
#include <string_view>

#include "train/exchange/json_values.h"

namespace lockstep::train {

// Keys that change no logits: names and versions, special tokens, text generation, labels of
// classifiers, what a forward pass returns beside the logits, how it is computed.
std::span<const std::string_view> irrelevant_keys();

// Checks the keys that change the model unless they have one neutral value. Throws UsageError that
// names a key with another value.
void demand_neutral_keys(const JsonValues& values);

}  // namespace lockstep::train
