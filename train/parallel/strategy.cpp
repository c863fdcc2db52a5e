#include "train/parallel/strategy.h"

namespace lockstep::train {

std::unique_ptr<Strategy> make_strategy(const Config& config, const BuiltModel& model,
                                        std::shared_ptr<comm::ProcessGroup> group) {
  return config.parallel.strategy == StrategyKind::fsdp
             ? make_fsdp_strategy(config, model, std::move(group))
             : make_ddp_strategy(config, model, std::move(group));
}

std::string strategy_text(const ParallelConfig& parallel) {
  if (parallel.strategy != StrategyKind::fsdp) return str(parallel.strategy);
  const bool hybrid = parallel.shard.kind == ShardMode::Kind::hybrid;
  const std::string mesh = hybrid ? str(" [", parallel.mesh[0], ", ", parallel.mesh[1], "]") : "";
  return str("fsdp, shard ", parallel.shard, mesh);
}

}  // namespace lockstep::train
