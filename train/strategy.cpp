#include "train/strategy.h"

namespace lockstep::train {

std::unique_ptr<Strategy> make_strategy(const Config& config, const BuiltModel& model, std::shared_ptr<comm::ProcessGroup> group) {
  return config.parallel.strategy == "fsdp" ? make_fsdp_strategy(config, model, std::move(group))
                                            : make_ddp_strategy(config, model, std::move(group));
}

}  // namespace lockstep::train
