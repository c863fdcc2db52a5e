// What language models have in common: initial weights, and checks of options and tokens. `kind` is
// the model's name in messages: "gpt".
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "core/autograd/variable.h"

namespace lockstep::train {

inline constexpr float kInitStddev = 0.02f;

// Throws UsageError that names an option that is not above 0.
void check_counts(std::string_view kind,
                  const std::vector<std::pair<std::string_view, int64_t>>& options);
void check_dropout(std::string_view kind, float dropout);
// Expects [B, T] with T from 1 to `block`.
void check_tokens(std::string_view kind, const Variable& tokens, int64_t block);

// i32 [time]: 0, 1, …. `known` keeps them on the device between calls, because a copy from ordinary
// host memory would wait for the device each time.
Variable positions(int64_t time, Device device, Tensor& known);

}  // namespace lockstep::train
