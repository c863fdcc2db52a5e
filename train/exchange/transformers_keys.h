// Keys of config.json that every model of Hugging Face's transformers may have (its class
// PretrainedConfig), sorted by what they do to the logits of a causal language model. A layout adds
// the keys of its own model.
#pragma once

#include <span>
#include <string_view>

#include "train/exchange/json_values.h"

namespace lockstep::train {

// Keys that change no logits: names and versions, tokens with a meaning, how text is generated,
// labels of classifiers, what a forward pass returns beside the logits, how it is computed.
std::span<const std::string_view> irrelevant_keys();

// Keys that change the model unless they have one value. UsageError naming the key that has another
// one.
void demand_neutral_keys(const JsonValues& values);

}  // namespace lockstep::train
