#include "train/models/llama.h"

#include <cmath>

#include "core/nn/init.h"
#include "train/models/language_model.h"

namespace lockstep::train {
namespace {

// Rotates heads of width D in pairs (i, i + D/2) by position · theta^(−2i/D), as in Su et al.
// (RoFormer), in the layout of transformers.
class Rotation {
 public:
  Rotation(int64_t width, double theta) : width_(width), theta_(theta) {}

  // x f32 [B, T, H, D] → the same shape.
  Variable apply(const Variable& x) {
    const int64_t time = x.shape()[1], half = width_ / 2;
    if (!cosines_.defined() || cosines_.size(0) < time || cosines_.device() != x.data().device())
      make_tables(time, x.data().device());
    const Variable cosine(cosines_.narrow(0, 0, time)), sine(sines_.narrow(0, 0, time));
    const Variable left = ops::narrow(x, 3, 0, half), right = ops::narrow(x, 3, half, half);
    return ops::concat({ops::sub(ops::mul(left, cosine), ops::mul(right, sine)),
                        ops::add(ops::mul(right, cosine), ops::mul(left, sine))},
                       3);
  }

 private:
  void make_tables(int64_t time, Device device) {
    const int64_t half = width_ / 2;
    std::vector<float> cosines, sines;
    for (int64_t t = 0; t < time; ++t)
      for (int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(t) *
            std::pow(theta_, -2.0 * static_cast<double>(i) / static_cast<double>(width_));
        cosines.push_back(static_cast<float>(std::cos(angle)));
        sines.push_back(static_cast<float>(std::sin(angle)));
      }
    cosines_ = Tensor::from(cosines, {time, 1, half}, device);
    sines_ = Tensor::from(sines, {time, 1, half}, device);
  }

  int64_t width_;
  double theta_;
  Tensor cosines_, sines_;  // f32 [T, 1, D/2], for the longest sequence so far
};

// x + proj(attention(q, k, v of ln1(x))), then x + out(silu(gate(ln2(x))) · up(ln2(x))).
class Block final : public nn::Module {
 public:
  Block(const LlamaOptions& o, std::shared_ptr<Rotation> rotation)
      : heads_(o.heads), kv_heads_(o.kv_heads), rotation_(std::move(rotation)) {
    const int64_t kv = o.dim / o.heads * o.kv_heads;
    const auto linear = [&](const char* name, int64_t in, int64_t out) {
      return register_module(name, std::make_shared<nn::Linear>(in, out, false));
    };
    ln1_ = register_module("ln1", std::make_shared<nn::RmsNorm>(o.dim, o.norm_eps));
    q_ = linear("q", o.dim, o.dim);
    k_ = linear("k", o.dim, kv);
    v_ = linear("v", o.dim, kv);
    proj_ = linear("proj", o.dim, o.dim);
    ln2_ = register_module("ln2", std::make_shared<nn::RmsNorm>(o.dim, o.norm_eps));
    gate_ = linear("gate", o.dim, o.hidden);
    up_ = linear("up", o.dim, o.hidden);
    out_ = linear("out", o.hidden, o.dim);
    drop1_ = register_module("drop1", std::make_shared<nn::Dropout>(o.dropout));
    drop2_ = register_module("drop2", std::make_shared<nn::Dropout>(o.dropout));
  }

 protected:
  Variable forward(const Variable& x) override {
    const Variable middle = ops::add(x, attend(x));
    return ops::add(middle, think(middle));
  }

 private:
  // Computes the norm again for each projection. The projections' gradients are then summed at x,
  // not at the norm's output.
  static Variable project(const Variable& x, nn::RmsNorm& norm, nn::Linear& linear) {
    return linear(norm(x));
  }
  // [B, T, heads·D] → f32 [B, T, heads, D], and back.
  static Variable by_heads(const Variable& x, int64_t heads) {
    const Shape& s = x.shape();
    return ops::reshape(ops::cast(x, DType::f32), {s[0], s[1], heads, s[2] / heads});
  }
  static Variable side_by_side(const Variable& x) {
    const Shape& s = x.shape();
    return ops::reshape(x, {s[0], s[1], s[2] * s[3]});
  }
  Variable attend(const Variable& x) {  // [B, T, C]
    const Variable q = rotation_->apply(by_heads(project(x, *ln1_, *q_), heads_));
    const Variable k = rotation_->apply(by_heads(project(x, *ln1_, *k_), kv_heads_));
    const Variable v = ops::cast(project(x, *ln1_, *v_), DType::f32);
    const Variable qkv = ops::concat({side_by_side(q), side_by_side(k), v}, 2);
    return (*drop1_)((*proj_)(ops::causal_attention(qkv, heads_, kv_heads_)));
  }
  Variable think(const Variable& x) {
    const Variable wide = ops::mul(ops::silu(project(x, *ln2_, *gate_)), project(x, *ln2_, *up_));
    return (*drop2_)((*out_)(wide));
  }

  int64_t heads_, kv_heads_;
  std::shared_ptr<Rotation> rotation_;  // one for all blocks
  std::shared_ptr<nn::RmsNorm> ln1_, ln2_;
  std::shared_ptr<nn::Linear> q_, k_, v_, proj_, gate_, up_, out_;
  std::shared_ptr<nn::Dropout> drop1_, drop2_;
};

void check_options(const LlamaOptions& o) {
  check_counts("llama", {{"layers", o.layers},
                         {"heads", o.heads},
                         {"kv_heads", o.kv_heads},
                         {"dim", o.dim},
                         {"hidden", o.hidden},
                         {"block", o.block},
                         {"vocab", o.vocab}});
  check(o.dim % (2 * o.heads) == 0, "[llama] expected heads of an even width, got dim ", o.dim,
        " and heads ", o.heads);
  check(o.heads % o.kv_heads == 0, "[llama] expected heads that kv_heads divide, got heads ",
        o.heads, " and kv_heads ", o.kv_heads);
  check_dropout("llama", o.dropout);
}

}  // namespace

Llama::Llama(const LlamaOptions& options) : options_(options) {
  check_options(options);
  const auto rotation = std::make_shared<Rotation>(options.dim / options.heads, options.rope_theta);
  wte_ = register_module("wte", std::make_shared<nn::Embedding>(options.vocab, options.dim));
  drop_ = register_module("drop", std::make_shared<nn::Dropout>(options.dropout));
  blocks_ = register_module("blocks", std::make_shared<nn::Sequential>());
  for (int64_t i = 0; i < options.layers; ++i)
    blocks_->append(std::make_shared<Block>(options, rotation));
  lnf_ = register_module("lnf", std::make_shared<nn::RmsNorm>(options.dim, options.norm_eps));
  head_ = options.tied_head ? std::make_shared<nn::Linear>(wte_->weight)
                            : std::make_shared<nn::Linear>(options.dim, options.vocab, false);
  register_module("head", head_);
}

Variable Llama::forward(const Variable& tokens) {
  check_tokens("llama", tokens, options_.block);
  const Variable x = (*drop_)((*wte_)(tokens));  // [B, T, C]
  return (*head_)((*lnf_)((*blocks_)(x)));
}

void Llama::reset_parameters(uint64_t seed) {
  for (const Parameter& p : parameters()) {
    if (p.data().dim() == 2)
      nn::init_normal(p, 0.0f, kInitStddev, seed);
    else
      nn::init_constant(p, 1.0f);
  }
}

double Llama::flops_per_token(int64_t time) const {
  const auto layers = static_cast<double>(options_.layers), dim = static_cast<double>(options_.dim);
  const double kv =
      dim * static_cast<double>(options_.kv_heads) / static_cast<double>(options_.heads);
  const double block =
      2 * dim * dim + 2 * dim * kv + 3 * dim * static_cast<double>(options_.hidden);
  return 6.0 * (layers * block + static_cast<double>(options_.vocab) * dim) +
         12.0 * layers * dim * static_cast<double>(time);
}

}  // namespace lockstep::train
