#include "train/models/factory.h"

#include <cmath>
#include <optional>

#include "core/device/allocator.h"
#include "core/nn/init.h"
#include "train/models/gpt.h"
#include "train/models/llama.h"
#include "train/models/mlp.h"

namespace lockstep::train {
namespace {

UnaryOp operation_of(Activation activation) {
  switch (activation) {
    case Activation::gelu: return UnaryOp::gelu;
    case Activation::gelu_tanh: return UnaryOp::gelu_tanh;
    case Activation::relu: return UnaryOp::relu;
    case Activation::silu: return UnaryOp::silu;
  }
  throw UsageError("model.activation has an unknown value");
}

BuiltModel build_gpt(const ModelConfig& m) {
  const auto gpt =
      std::make_shared<Gpt>(GptOptions{.layers = m.layers,
                                       .heads = m.heads,
                                       .dim = m.dim,
                                       .block = m.block,
                                       .vocab = m.vocab,
                                       .dropout = static_cast<float>(m.dropout),
                                       .activation = operation_of(m.activation),
                                       .norm_eps = static_cast<float>(m.norm_eps),
                                       .scaled_residual_init = m.scaled_residual_init});
  return {.module = gpt,
          .flops_per_sample = gpt->flops_per_token(m.block) * static_cast<double>(m.block),
          .items_per_sample = m.block,
          .items_are_tokens = true};
}

BuiltModel build_llama(const ModelConfig& m) {
  const auto llama =
      std::make_shared<Llama>(LlamaOptions{.layers = m.layers,
                                           .heads = m.heads,
                                           .kv_heads = m.key_value_heads(),
                                           .dim = m.dim,
                                           .hidden = m.feed_forward_width(),
                                           .block = m.block,
                                           .vocab = m.vocab,
                                           .dropout = static_cast<float>(m.dropout),
                                           .norm_eps = static_cast<float>(m.norm_eps),
                                           .rope_theta = m.rope_theta,
                                           .tied_head = m.tied_head});
  return {.module = llama,
          .flops_per_sample = llama->flops_per_token(m.block) * static_cast<double>(m.block),
          .items_per_sample = m.block,
          .items_are_tokens = true};
}

BuiltModel build_mlp(const ModelConfig& m) {
  std::vector<int64_t> widths{m.block};
  widths.insert(widths.end(), static_cast<size_t>(m.layers), m.dim);
  widths.push_back(m.vocab);
  const auto mlp = std::make_shared<Mlp>(widths);
  return {.module = mlp, .flops_per_sample = mlp->flops_per_row()};
}

// Sets recomputation for every k-th module below "blocks".
void set_recompute(const TrainConfig& train, const nn::Module& model) {
  if (train.recompute == Recompute::none) return;
  for (const auto& [name, child] : model.children()) {
    if (name != "blocks") continue;
    const auto& blocks = child->children();
    for (size_t i = 0; i < blocks.size(); i += static_cast<size_t>(train.recompute_every))
      blocks[i].second->set_recompute();
  }
}

}  // namespace

BuiltModel build_model(const Config& config, InitialValues values) {
  std::optional<nn::DeferredInit> deferred;
  if (values == InitialValues::deferred) deferred.emplace();
  MemoryScope scope(MemoryCategory::parameters);
  const ModelConfig& model = config.model;
  BuiltModel built = model.kind == ModelKind::mlp     ? build_mlp(model)
                     : model.kind == ModelKind::llama ? build_llama(model)
                                                      : build_gpt(model);
  built.module->initialize(static_cast<uint64_t>(config.run.seed));
  set_recompute(config.train, *built.module);
  return built;
}

std::optional<AttentionArgs> attention_of(const Config& config) {
  const ModelConfig& m = config.model;
  if (!m.is_language_model()) return std::nullopt;
  const int64_t kv_heads = m.kind == ModelKind::llama ? m.key_value_heads() : m.heads;
  const int64_t head_dim = m.dim / m.heads, width = (m.heads + 2 * kv_heads) * head_dim;
  return AttentionArgs{.batch = config.train.micro_batch,
                       .time = m.block,
                       .heads = m.heads,
                       .kv_heads = kv_heads,
                       .head_dim = head_dim,
                       .dtype = dtype_of(config.train.precision),
                       .q = nullptr,
                       .k = nullptr,
                       .v = nullptr,
                       .stride_batch = m.block * width,
                       .stride_time = width,
                       .stride_head = head_dim,
                       .scale = 1.0f / std::sqrt(static_cast<float>(head_dim)),
                       .causal = true};
}

}  // namespace lockstep::train
