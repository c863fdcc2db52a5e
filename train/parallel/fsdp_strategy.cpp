#include <map>
#include <set>

#include "core/nn/layers.h"
#include "fsdp/fully_shard.h"
#include "fsdp/wrap.h"
#include "train/parallel/offload.h"
#include "train/parallel/strategy.h"

namespace lockstep::train {
namespace {

// Returns the weights of linear layers, except weights that are also an embedding table. Only
// products read them, in the dtype of the products.
std::set<const void*> product_weights(const nn::Module& root) {
  std::set<const void*> weights, tables;
  const auto visit = [&](const auto& self, const nn::Module& module) -> void {
    if (const auto* linear = dynamic_cast<const nn::Linear*>(&module))
      weights.insert(linear->weight.impl().get());
    if (const auto* embedding = dynamic_cast<const nn::Embedding*>(&module))
      tables.insert(embedding->weight.impl().get());
    for (const auto& [name, child] : module.children()) self(self, *child);
  };
  visit(visit, root);
  for (const void* table : tables) weights.erase(table);
  return weights;
}

std::function<bool(const nn::Module&)> wrap_of(const ParallelConfig& parallel,
                                               const nn::Module& module) {
  try {
    return fsdp::wrap_rule(parallel.wrap, module);
  } catch (const UsageError& e) {
    throw UsageError(str("parallel.wrap: ", e.what()));
  }
}

comm::DeviceMesh mesh_of(const ParallelConfig& parallel,
                         const std::shared_ptr<comm::ProcessGroup>& group) {
  const int rows =
      parallel.shard.kind == ShardMode::Kind::hybrid ? static_cast<int>(parallel.mesh[0]) : 1;
  return {group, {{"replicate", rows}, {"shard", group->size() / rows}}};
}

class FsdpStrategy final : public Strategy {
 public:
  FsdpStrategy(const Config& config, const BuiltModel& model,
               const std::shared_ptr<comm::ProcessGroup>& group)
      : sharded_(fsdp::fully_shard(model.module, mesh_of(config.parallel, group),
                                   fsdp_options(config, *model.module))) {
    for (const auto& slice : sharded_->slices()) specs_[slice.name] = slice.spec;
  }

  Progression leaves() const override { return sharded_->leaves(); }
  void backward(const Variable& loss) override { sharded_->backward(loss); }
  void finish() override { sharded_->finish(); }
  const std::vector<Parameter>& parameters() const override { return sharded_->parameters(); }
  std::vector<StatePart> held() const override {
    std::vector<StatePart> parts;
    for (const auto& slice : sharded_->slices())
      parts.push_back({slice.name, slice.values, slice.spec});
    return parts;
  }
  ShardSpec shard(const std::string& name) const override { return specs_.at(name); }
  void values_changed() override { sharded_->values_changed(); }
  void for_each_whole(const std::function<void(const std::string&, const Tensor&)>& use) override {
    sharded_->for_each_whole(use);
  }
  bool forwards_together() const override { return true; }
  void plan_memory(MemoryBound& bound) const override {
    const fsdp::MemoryPlan plan = sharded_->memory_plan();
    bound[static_cast<size_t>(MemoryCategory::parameters)] = plan.parameters;
    bound[static_cast<size_t>(MemoryCategory::gathered)] = plan.gathered;
    bound[static_cast<size_t>(MemoryCategory::gradients)] = plan.gradients;
  }
  Duration exposed_communication() const override { return sharded_->exposed_communication(); }

 private:
  std::unique_ptr<fsdp::FullyShardedDataParallel> sharded_;
  std::map<std::string, ShardSpec> specs_;
};

}  // namespace

fsdp::Options fsdp_options(const Config& config, const nn::Module& module) {
  const ParallelConfig& parallel = config.parallel;
  fsdp::Options options{.micro_batches = config.train.micro_batches(),
                        .units_in_flight = static_cast<int>(parallel.units_in_flight)};
  using Kind = ShardMode::Kind;
  const ShardMode& shard = parallel.shard;
  if (shard.kind == Kind::grad || shard.kind == Kind::optim)
    options.reshard = fsdp::Reshard::after_step;
  if (shard.kind == Kind::optim) options.accumulate = fsdp::Accumulate::in_full;
  if (shard.kind == Kind::nearby) options.nearby = static_cast<int>(shard.ranks);
  if (parallel.offload) options.own_memory = offload_to(config.run.dir);
  options.wrap = wrap_of(parallel, module);
  if (config.train.precision != Precision::fp32) {
    options.compute = dtype_of(config.train.precision);
    options.low_precision = [weights = product_weights(module)](const Parameter& p) {
      return weights.count(p.impl().get()) > 0;
    };
  }
  return options;
}

std::unique_ptr<Strategy> make_fsdp_strategy(const Config& config, const BuiltModel& model,
                                             std::shared_ptr<comm::ProcessGroup> group) {
  return std::make_unique<FsdpStrategy>(config, model, group);
}

}  // namespace lockstep::train
