#include <algorithm>
#include <map>

#include "core/base/number_text.h"
#include "ddp/ddp.h"
#include "train/parallel/strategy.h"

namespace lockstep::train {
namespace {

ddp::Options options_of(const Config& config) {
  const auto bytes = static_cast<int64_t>(config.parallel.bucket_mb * kMB);
  return {.micro_batches = config.train.micro_batches(),
          .first_bucket_bytes = std::min<int64_t>(bytes, 1 << 20),
          .bucket_bytes = bytes};
}

class DdpStrategy final : public Strategy {
 public:
  DdpStrategy(const Config& config, const BuiltModel& model,
              const std::shared_ptr<comm::ProcessGroup>& group)
      : all_(model.module->parameters()),
        ddp_(all_, model.module->buffers(), group, options_of(config)) {
    const int64_t first = ddp_.tree().begin(group->rank());
    leaves_ = {first, ddp_.tree().begin(group->rank() + 1) - first};
    for (const Parameter& p : all_) {
      by_name_[p.name()] = p;
      if (p.requires_grad()) trained_.push_back(p);
    }
  }

  Progression leaves() const override { return leaves_; }
  void backward(const Variable& loss) override { ddp_.backward(loss); }
  void finish() override { ddp_.finish(); }
  const std::vector<Parameter>& parameters() const override { return trained_; }
  std::vector<StatePart> held() const override {
    std::vector<StatePart> parts;
    for (const Parameter& p : all_)
      parts.push_back({p.name(), p.data(), ShardSpec::whole(p.shape())});
    return parts;
  }
  ShardSpec shard(const std::string& name) const override {
    return ShardSpec::whole(by_name_.at(name).shape());
  }
  void values_changed() override {}
  void for_each_whole(const std::function<void(const std::string&, const Tensor&)>& use) override {
    for (const auto& [name, parameter] : by_name_) use(name, parameter.data());
  }
  bool forwards_together() const override { return false; }
  void plan_memory(MemoryBound& bound) const override {
    int64_t bytes = 0;
    for (const Parameter& p : all_) bytes += p.data().bytes();
    bound[static_cast<size_t>(MemoryCategory::parameters)] = bytes;
    bound[static_cast<size_t>(MemoryCategory::gathered)] = 0;
    bound[static_cast<size_t>(MemoryCategory::gradients)] = ddp_.gradient_bytes();
  }
  Duration exposed_communication() const override { return ddp_.exposed_communication(); }

 private:
  std::vector<Parameter> all_, trained_;
  std::map<std::string, Parameter> by_name_;
  ddp::DistributedDataParallel ddp_;
  Progression leaves_;
};

}  // namespace

std::unique_ptr<Strategy> make_ddp_strategy(const Config& config, const BuiltModel& model,
                                            std::shared_ptr<comm::ProcessGroup> group) {
  return std::make_unique<DdpStrategy>(config, model, group);
}

}  // namespace lockstep::train
