// Llama's shape: rotary positions, pre-norm blocks with RMS norms, attention in which several query
// heads may share a key and value head, gated SiLU feed-forward parts, no biases, and a head of its
// own or tied to the token embedding.
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
  float dropout = 0.0f;  // on the embedding and on what each half of a block adds; Llama has none
  float norm_eps = 1e-5f;
  double rope_theta = 10000.0;
  bool tied_head = false;
};

// Parameters, by name: wte.weight [vocab, dim], blocks.N.{ln1, q, k, v, proj, ln2, gate, up,
// out}.weight, lnf.weight, and head.weight [vocab, dim] unless tied. Weights start normal(0, 0.02),
// norms 1, once initialize(seed) is called.
class Llama final : public nn::Module {
 public:
  // Throws UsageError naming the option that does not fit.
  explicit Llama(const LlamaOptions& options);

  const LlamaOptions& options() const { return options_; }
  // Floating-point operations of a forward and backward pass for each token, counted as
  // Gpt::flops_per_token() does.
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
  std::shared_ptr<nn::Linear> head_;  // tied: with the weight of wte
};

}  // namespace lockstep::train
