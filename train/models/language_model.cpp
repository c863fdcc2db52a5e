#include "train/models/language_model.h"

#include <numeric>

#include "core/base/error.h"

namespace lockstep::train {

void check_counts(std::string_view kind,
                  const std::vector<std::pair<std::string_view, int64_t>>& options) {
  for (const auto& [name, value] : options)
    check(value > 0, "[", kind, "] expected ", name, " above 0, got ", value);
}

void check_dropout(std::string_view kind, float dropout) {
  check(dropout >= 0.0f && dropout < 1.0f, "[", kind, "] expected dropout within [0, 1), got ",
        dropout);
}

void check_tokens(std::string_view kind, const Variable& tokens, int64_t block) {
  check(tokens.defined() && tokens.data().dim() == 2 && tokens.shape()[1] >= 1 &&
            tokens.shape()[1] <= block,
        "[", kind, "] expected tokens [B, T] with T from 1 to ", block, ", got ",
        tokens.defined() ? tokens.data() : Tensor());
}

Variable positions(int64_t time, Device device, Tensor& known) {
  if (!known.defined() || known.device() != device || known.size(0) < time) {
    std::vector<int32_t> all(static_cast<size_t>(time));
    std::iota(all.begin(), all.end(), 0);
    const MemoryScope scope(MemoryCategory::buffers);
    known = Tensor::from(all, {time}, device);
  }
  return Variable(known.narrow(0, 0, time));
}

}  // namespace lockstep::train
