#include "train/models/gpt.h"

#include <cmath>

#include "core/nn/init.h"
#include "train/models/language_model.h"

namespace lockstep::train {
namespace {

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() &&
         std::string_view(text).substr(text.size() - end.size()) == end;
}

// x + proj(attention(qkv(ln1(x)))), then x + out(act(fc(ln2(x)))).
class Block final : public nn::Module {
 public:
  explicit Block(const GptOptions& o) : heads_(o.heads) {
    ln1_ = register_module("ln1", std::make_shared<nn::LayerNorm>(o.dim, o.norm_eps));
    qkv_ = register_module("qkv", std::make_shared<nn::Linear>(o.dim, 3 * o.dim));
    proj_ = register_module("proj", std::make_shared<nn::Linear>(o.dim, o.dim));
    ln2_ = register_module("ln2", std::make_shared<nn::LayerNorm>(o.dim, o.norm_eps));
    fc_ = register_module("fc", std::make_shared<nn::Linear>(o.dim, 4 * o.dim));
    act_ = register_module("act", std::make_shared<nn::Activation>(o.activation));
    out_ = register_module("out", std::make_shared<nn::Linear>(4 * o.dim, o.dim));
    drop1_ = register_module("drop1", std::make_shared<nn::Dropout>(o.dropout));
    drop2_ = register_module("drop2", std::make_shared<nn::Dropout>(o.dropout));
  }

 protected:
  Variable forward(const Variable& x) override {
    const Variable middle = ops::add(x, attend(x));
    return ops::add(middle, think(middle));
  }

 private:
  Variable attend(const Variable& x) {  // [B, T, C]
    const Variable qkv = (*qkv_)((*ln1_)(x));
    return (*drop1_)((*proj_)(ops::causal_attention(qkv, heads_)));
  }
  Variable think(const Variable& x) {
    const Variable wide = (*fc_)((*ln2_)(x));
    return (*drop2_)((*out_)((*act_)(wide)));
  }

  int64_t heads_;
  std::shared_ptr<nn::LayerNorm> ln1_, ln2_;
  std::shared_ptr<nn::Linear> qkv_, proj_, fc_, out_;
  std::shared_ptr<nn::Activation> act_;
  std::shared_ptr<nn::Dropout> drop1_, drop2_;
};

void check_options(const GptOptions& o) {
  check_counts("gpt", {{"layers", o.layers},
                       {"heads", o.heads},
                       {"dim", o.dim},
                       {"block", o.block},
                       {"vocab", o.vocab}});
  check(o.dim % o.heads == 0, "[gpt] expected heads to divide dim, got dim ", o.dim, " and heads ",
        o.heads);
  check_dropout("gpt", o.dropout);
}

}  // namespace

Gpt::Gpt(const GptOptions& options) : options_(options) {
  check_options(options);
  wte_ = register_module("wte", std::make_shared<nn::Embedding>(options.vocab, options.dim));
  wpe_ = register_module("wpe", std::make_shared<nn::Embedding>(options.block, options.dim));
  drop_ = register_module("drop", std::make_shared<nn::Dropout>(options.dropout));
  blocks_ = register_module("blocks", std::make_shared<nn::Sequential>());
  for (int64_t i = 0; i < options.layers; ++i) blocks_->append(std::make_shared<Block>(options));
  lnf_ = register_module("lnf", std::make_shared<nn::LayerNorm>(options.dim, options.norm_eps));
  head_ = register_module("head", std::make_shared<nn::Linear>(wte_->weight));
}

Variable Gpt::forward(const Variable& tokens) {
  check_tokens("gpt", tokens, options_.block);
  const Variable token = (*wte_)(tokens);  // [B, T, C]
  const Variable place =
      (*wpe_)(positions(tokens.shape()[1], tokens.device(), positions_));  // [T, C]
  const Variable x = (*drop_)(ops::add(token, place));
  return (*head_)((*lnf_)((*blocks_)(x)));
}

void Gpt::reset_parameters(uint64_t seed) {
  const float residual = options_.scaled_residual_init
                             ? kInitStddev / std::sqrt(2.0f * static_cast<float>(options_.layers))
                             : kInitStddev;
  for (const Parameter& p : parameters()) {
    const bool matrix = p.data().dim() == 2;
    const bool adds_to_residual =
        ends_with(p.name(), "proj.weight") || ends_with(p.name(), "out.weight");
    if (matrix)
      nn::init_normal(p, 0.0f, adds_to_residual ? residual : kInitStddev, seed);
    else
      nn::init_constant(p, ends_with(p.name(), "bias") ? 0.0f : 1.0f);
  }
}

double Gpt::flops_per_token(int64_t time) const {
  const auto layers = static_cast<double>(options_.layers), dim = static_cast<double>(options_.dim);
  const double weights = layers * 12.0 * dim * dim + static_cast<double>(options_.vocab) * dim;
  return 6.0 * weights + 12.0 * layers * dim * static_cast<double>(time);
}

}  // namespace lockstep::train
