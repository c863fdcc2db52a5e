// The usual layers. Weights are 0 (norms: 1) until Module::initialize() sets each layer's defaults.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/nn/module.h"
#include "core/ops/functions.h"

namespace lockstep::nn {

// x [..., in] → x·weightᵀ + bias [..., out]. weight [out, in], bias [out]; both start uniform in
// ±1/sqrt(in).
class Linear final : public Module {
 public:
  Linear(int64_t in, int64_t out, bool bias = true);
  // With a weight [out, in] that another module owns, initialises and names (tied weights), and no
  // bias.
  explicit Linear(Parameter shared_weight);
  Parameter weight, bias;  // bias is undefined where there is none

 protected:
  Variable forward(const Variable& x) override;
  void reset_parameters(uint64_t seed) override;

 private:
  bool shares_weight_ = false;
};

// ids [...] (i32, i64 or u8) → rows of weight [count, dim]: [..., dim]. Starts normal(0, 1).
class Embedding final : public Module {
 public:
  Embedding(int64_t count, int64_t dim);
  Parameter weight;

 protected:
  Variable forward(const Variable& ids) override;
  void reset_parameters(uint64_t seed) override;
};

class LayerNorm final : public Module {
 public:
  explicit LayerNorm(int64_t dim, float eps = 1e-5f);
  Parameter weight, bias;
  const float eps;

 protected:
  Variable forward(const Variable& x) override;
  void reset_parameters(uint64_t seed) override;
};

class RmsNorm final : public Module {
 public:
  explicit RmsNorm(int64_t dim, float eps = 1e-6f);
  Parameter weight;
  const float eps;

 protected:
  Variable forward(const Variable& x) override;
  void reset_parameters(uint64_t seed) override;
};

// Zeroes elements with probability p and scales the rest by 1/(1−p); passes everything on when not
// training. Its mask is named by the RandomScope and the module's path: a module that is called
// twice in a micro-batch draws the same mask twice. In training, one without a path (not
// registered) throws UsageError, and so does one whose path another module of the RandomScope has:
// two models of one micro-batch need names or seeds of their own.
class Dropout final : public Module {
 public:
  explicit Dropout(float p);

 protected:
  Variable forward(const Variable& x) override;

 private:
  float p_;
};

// GELU, SiLU, ReLU, …: Activation(UnaryOp::gelu).
class Activation final : public Module {
 public:
  explicit Activation(UnaryOp op) : op_(op) {}

 protected:
  Variable forward(const Variable& x) override { return ops::unary(op_, x); }

 private:
  UnaryOp op_;
};

// x [B, T, C] → [B, T, C]: one projection to q, k and v, causal attention, and a projection of the
// result.
class CausalSelfAttention final : public Module {
 public:
  CausalSelfAttention(int64_t dim, int64_t heads);

 protected:
  Variable forward(const Variable& x) override;

 private:
  int64_t heads_;
  std::shared_ptr<Linear> qkv_, proj_;
};

// One module after the other, named "0", "1", …. Each takes all that the one before it returned.
class Sequential final : public Module {
 public:
  Sequential() = default;
  explicit Sequential(std::vector<std::shared_ptr<Module>> modules);
  void append(std::shared_ptr<Module> module);
  size_t size() const { return children().size(); }

 protected:
  Variables forward_all(const Variables& inputs) override;
};

}  // namespace lockstep::nn
