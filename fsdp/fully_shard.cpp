#include "fsdp/fully_shard.h"

#include "fsdp/engine/engine.h"

namespace lockstep::fsdp {

FullyShardedDataParallel::FullyShardedDataParallel(std::shared_ptr<nn::Module> module,
                                                   const comm::DeviceMesh& mesh, Options options)
    : engine_(std::make_shared<Engine>(std::move(module), mesh, options)) {
  engine_->install_hooks(engine_, options.output);
}
FullyShardedDataParallel::~FullyShardedDataParallel() = default;

const Progression& FullyShardedDataParallel::leaves() const { return engine_->assignment().leaves; }
int64_t FullyShardedDataParallel::micro_batches() const { return engine_->micro_batches(); }
void FullyShardedDataParallel::begin_micro_batch() { engine_->begin_micro_batch(); }
void FullyShardedDataParallel::backward(const Variable& loss) { engine_->backward(loss, {}); }
void FullyShardedDataParallel::backward(const Variable& loss, int64_t micro_batch) {
  engine_->backward(loss, micro_batch);
}
void FullyShardedDataParallel::finish() { engine_->finish(); }
int FullyShardedDataParallel::active_ranks(bool have_input) {
  return engine_->active_ranks(have_input);
}
void FullyShardedDataParallel::skip() { engine_->skip(); }
const std::vector<Parameter>& FullyShardedDataParallel::parameters() const {
  return engine_->slices().trained;
}
const std::vector<FullyShardedDataParallel::Slice>& FullyShardedDataParallel::slices() const {
  return engine_->slices().all;
}
void FullyShardedDataParallel::values_changed() { engine_->values_changed(); }
void FullyShardedDataParallel::for_each_whole(
    const std::function<void(const std::string&, const Tensor&)>& use) {
  fsdp::for_each_whole(engine_->units(), engine_->mesh(), use);
}
MemoryPlan FullyShardedDataParallel::memory_plan() const { return engine_->memory(); }
Duration FullyShardedDataParallel::exposed_communication() const { return engine_->exposed(); }

std::vector<std::pair<std::string, std::vector<std::string>>> FullyShardedDataParallel::units()
    const {
  std::vector<std::pair<std::string, std::vector<std::string>>> units;
  for (const auto& unit : engine_->units()) {
    units.push_back({unit->name(), {}});
    for (const auto& section : unit->sections())
      for (const Parameter& p : section->parameters()) units.back().second.push_back(p.name());
  }
  return units;
}

std::unique_ptr<FullyShardedDataParallel> fully_shard(std::shared_ptr<nn::Module> module,
                                                      const comm::DeviceMesh& mesh,
                                                      Options options) {
  return std::make_unique<FullyShardedDataParallel>(std::move(module), mesh, std::move(options));
}

std::unique_ptr<FullyShardedDataParallel> fully_shard(std::shared_ptr<nn::Module> module,
                                                      std::shared_ptr<comm::ProcessGroup> group,
                                                      Options options) {
  const int ranks = group->size();
  const comm::DeviceMesh mesh(std::move(group), {{"replicate", 1}, {"shard", ranks}});
  return fully_shard(std::move(module), mesh, std::move(options));
}

}  // namespace lockstep::fsdp
