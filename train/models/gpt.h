// The architecture of GPT-2: learned positions, pre-norm blocks, a final norm, and a head tied to
// the token embedding. With the activation gelu_tanh it is exactly GPT-2.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/nn/layers.h"

namespace lockstep::train {

struct GptOptions {
  int64_t layers = 6;
  int64_t heads = 6;
  int64_t dim = 384;
  int64_t block = 256;  // the longest sequence
  int64_t vocab = 256;
  float dropout = 0.0f;  // on the embedding and on the output of each half of a block
  UnaryOp activation = UnaryOp::gelu;
  float norm_eps = 1e-5f;
  // GPT-2's smaller initial values for the two projections that add to the residual stream:
  // 0.02/sqrt(2·layers) instead of 0.02.
  bool scaled_residual_init = false;
};

// Parameters, by name: wte.weight [vocab, dim], wpe.weight [block, dim], blocks.N.{ln1, qkv, proj,
// ln2, fc, out}, lnf. initialize(seed) draws weights from normal(0, 0.02) and sets biases to 0 and
// norms to 1.
class Gpt final : public nn::Module {
 public:
  // Throws UsageError that names the option that does not fit.
  explicit Gpt(const GptOptions& options);

  const GptOptions& options() const { return options_; }
  // Floating-point operations of a forward and backward pass for each token, at sequences of `time`
  // tokens. Counts 6 for each weight that multiplies, and the attention products as if they were
  // not causal (the usual count, PaLM's appendix B).
  double flops_per_token(int64_t time) const;

 protected:
  // tokens [B, T] (i32, i64 or u8), T ≤ block → logits [B, T, vocab].
  Variable forward(const Variable& tokens) override;
  void reset_parameters(uint64_t seed) override;

 private:
  GptOptions options_;
  Tensor positions_;  // on the device, for the longest sequence so far
  std::shared_ptr<nn::Embedding> wte_, wpe_;
  std::shared_ptr<nn::Dropout> drop_;
  std::shared_ptr<nn::Sequential> blocks_;
  std::shared_ptr<nn::LayerNorm> lnf_;
  std::shared_ptr<nn::Linear> head_;  // shares the weight of wte
};

}  // namespace lockstep::train
