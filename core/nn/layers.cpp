#include "core/nn/layers.h"

#include <cmath>

#include "core/nn/init.h"
#include "core/nn/random.h"

namespace lockstep::nn {

Linear::Linear(int64_t in, int64_t out, bool with_bias) {
  check(in > 0 && out > 0, "[Linear] expected positive widths, got ", in, " and ", out);
  weight = register_parameter("weight", parameter_data({out, in}));
  if (with_bias) bias = register_parameter("bias", parameter_data({out}));
}

Linear::Linear(Parameter shared_weight) : weight(shared_weight), shares_weight_(true) {
  register_shared_parameter("weight", std::move(shared_weight));
  check(weight.data().dim() == 2, "[Linear] expected a weight [out, in], got '", weight.name(),
        "' ", weight.data());
}

Variable Linear::forward(const Variable& x) { return ops::linear(x, weight, bias); }

void Linear::reset_parameters(uint64_t seed) {
  if (shares_weight_) return;
  const float bound = 1.0f / std::sqrt(static_cast<float>(weight.shape()[1]));
  init_uniform(weight, -bound, bound, seed);
  if (bias.defined()) init_uniform(bias, -bound, bound, seed);
}

Embedding::Embedding(int64_t count, int64_t dim) {
  check(count > 0 && dim > 0, "[Embedding] expected a positive count and width, got ", count,
        " and ", dim);
  weight = register_parameter("weight", parameter_data({count, dim}));
}

Variable Embedding::forward(const Variable& ids) { return ops::embedding(ids.data(), weight); }
void Embedding::reset_parameters(uint64_t seed) { init_normal(weight, 0.0f, 1.0f, seed); }

LayerNorm::LayerNorm(int64_t dim, float epsilon) : eps(epsilon) {
  check(dim > 0, "[LayerNorm] expected a positive width, got ", dim);
  weight = register_parameter("weight", parameter_data({dim}, 1.0f));
  bias = register_parameter("bias", parameter_data({dim}));
}

Variable LayerNorm::forward(const Variable& x) { return ops::layer_norm(x, weight, bias, eps); }

void LayerNorm::reset_parameters(uint64_t) {
  init_constant(weight, 1.0f);
  init_constant(bias, 0.0f);
}

RmsNorm::RmsNorm(int64_t dim, float epsilon) : eps(epsilon) {
  check(dim > 0, "[RmsNorm] expected a positive width, got ", dim);
  weight = register_parameter("weight", parameter_data({dim}, 1.0f));
}

Variable RmsNorm::forward(const Variable& x) { return ops::rms_norm(x, weight, eps); }
void RmsNorm::reset_parameters(uint64_t) { init_constant(weight, 1.0f); }

Dropout::Dropout(float p) : p_(p) {
  check(p >= 0.0f && p < 1.0f, "[Dropout] expected a probability within [0, 1), got ", p);
}

Variable Dropout::forward(const Variable& x) {
  return training() && p_ > 0.0f ? ops::dropout(x, p_, RandomScope::key(path(), this)) : x;
}

CausalSelfAttention::CausalSelfAttention(int64_t dim, int64_t heads) : heads_(heads) {
  check(dim > 0 && heads > 0 && dim % heads == 0, "[CausalSelfAttention] expected a width that ",
        heads, " heads divide, got ", dim);
  qkv_ = register_module("qkv", std::make_shared<Linear>(dim, 3 * dim));
  proj_ = register_module("proj", std::make_shared<Linear>(dim, dim));
}

Variable CausalSelfAttention::forward(const Variable& x) {
  return (*proj_)(ops::causal_attention((*qkv_)(x), heads_));
}

Sequential::Sequential(std::vector<std::shared_ptr<Module>> modules) {
  for (auto& module : modules) append(std::move(module));
}

void Sequential::append(std::shared_ptr<Module> module) {
  register_module(std::to_string(size()), std::move(module));
}

Variables Sequential::forward_all(const Variables& inputs) {
  Variables values = inputs;
  for (const auto& child : children()) values = child.second->call(std::move(values));
  return values;
}

}  // namespace lockstep::nn
