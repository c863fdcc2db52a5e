// The architecture of Llama: rotary positions, pre-norm blocks with RMS norms, attention with
// shared key and value heads (several query heads may use one), gated SiLU feed-forward parts, no
// biases, and a head that is separate or tied to the token embedding.
#pragma once

#include <cstdint>
#include <memory>

#include "core/nn/layers.h"

namespace lockstep::train {

struct LlamaOptions {
  int64_t layers = 4;
  int64_t heads = 4;     // of queries
  int64_t kv_heads = 4;  // of keys and values; divides heads
  int64_t dim = 128;     // heads · (even width of a head)
  int64_t hidden = 344;  // width of the feed-forward parts
  int64_t block = 64;    // the longest sequence
  int64_t vocab = 256;
  // On the embedding and on the output of each half of a block. Llama itself has none.
  float dropout = 0.0f;
  float norm_eps = 1e-5f;
  double rope_theta = 10000.0;
  bool tied_head = false;
};

// Parameters, by name: wte.weight [vocab, dim], blocks.N.{ln1, q, k, v, proj, ln2, gate, up,
// out}.weight, lnf.weight, and head.weight [vocab, dim] unless tied. initialize(seed) draws weights
// from normal(0, 0.02) and sets norms to 1.
class Llama final : public nn::Module {
 public:
  // Throws UsageError that names the option that does not fit.
  explicit Llama(const LlamaOptions& options);

  const LlamaOptions& options() const { return options_; }
  // Floating-point operations of a forward and backward pass for each token, counted as in
  // Gpt::flops_per_token().
  double flops_per_token(int64_t time) const;

 protected:
  // tokens [B, T] (i32, i64 or u8), T ≤ block → logits [B, T, vocab].
  Variable forward(const Variable& tokens) override;
  void reset_parameters(uint64_t seed) override;

 private:
  LlamaOptions options_;
  std::shared_ptr<nn::Embedding> wte_;
  std::shared_ptr<nn::Dropout> drop_;
  std::shared_ptr<nn::Sequential> blocks_;
  std::shared_ptr<nn::RmsNorm> lnf_;
  std::shared_ptr<nn::Linear> head_;  // tied: shares the weight of wte
};

}  // namespace lockstep::train
