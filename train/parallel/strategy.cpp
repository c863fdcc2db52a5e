#include "train/parallel/strategy.h"

namespace lockstep::train {

std::unique_ptr<Strategy> make_strategy(const Config& config, const BuiltModel& model,
                                        std::shared_ptr<comm::ProcessGroup> group) {
  return config.parallel.strategy == "fsdp" ? make_fsdp_strategy(config, model, std::move(group))
                                            : make_ddp_strategy(config, model, std::move(group));
}

std::string strategy_text(const ParallelConfig& parallel) {
  if (parallel.strategy != "fsdp") return parallel.strategy;
  const std::string mesh =
      parallel.shard == "hybrid" ? str(" [", parallel.mesh[0], ", ", parallel.mesh[1], "]") : "";
  return str("fsdp, shard ", parallel.shard, mesh);
}

}  // namespace lockstep::train
