// Checks keys against each other and against the number of ranks.
#include "core/base/error.h"
#include "train/config/config.h"
#include "train/config/keys.h"

namespace lockstep::train {
namespace {

// `keys`: the keys that contradict each other; the error blames the first one.
template <typename... Args>
void fit(bool fits, std::initializer_list<std::string_view> keys, const Args&... message) {
  if (!fits) throw MisfitError(str(message...), {keys.begin(), keys.end()});
}

bool is_folder_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

void check_data(const DataConfig& data, const ModelConfig& model) {
  if (data.kind != DataKind::text) return;
  fit(model.is_language_model(), {"data.kind", "model.kind"},
      "data.kind 'text' needs model.kind 'gpt' or 'llama', got '", model.kind,
      "'; an mlp trains on data.kind 'random'");
  fit(model.vocab >= 256, {"model.vocab", "data.tokenizer"}, "model.vocab is ", model.vocab,
      ", but data.tokenizer 'bytes' has 256 tokens: set model.vocab to 256 or more");
  fit(!data.path.empty(), {"data.path"},
      "data.path is not set: name a text file, such as one that scripts/fetch_kjv writes");
}

void check_recompute(const TrainConfig& train, const ModelConfig& model) {
  fit(train.recompute == Recompute::none || model.kind != ModelKind::mlp,
      {"train.recompute", "model.kind"}, "train.recompute '", train.recompute,
      "' is for models of blocks; an mlp's layers keep only their inputs anyway: set it to "
      "none");
}

void check_model(const ModelConfig& model) {
  fit(!model.is_language_model() || model.dim % model.heads == 0, {"model.heads", "model.dim"},
      "model.heads (", model.heads, ") does not divide model.dim (", model.dim,
      "): every head needs the same width");
  if (model.kind != ModelKind::llama) return;
  fit(model.dim / model.heads % 2 == 0, {"model.dim", "model.heads"}, "model.dim (", model.dim,
      ") over model.heads (", model.heads,
      ") is odd: rotary positions need heads of an even width");
  fit(model.heads % model.key_value_heads() == 0, {"model.kv_heads", "model.heads"},
      "model.kv_heads (", model.kv_heads, ") does not divide model.heads (", model.heads, ")");
}

void check_batches(const TrainConfig& train) {
  fit(train.global_batch % train.micro_batch == 0, {"train.micro_batch", "train.global_batch"},
      "train.micro_batch (", train.micro_batch, ") does not divide train.global_batch (",
      train.global_batch, "): a step must be a whole number of micro-batches");
}

void check_parallel(const ParallelConfig& parallel) {
  const bool fsdp = parallel.strategy == StrategyKind::fsdp;
  const bool hybrid = parallel.shard.kind == ShardMode::Kind::hybrid;
  const bool meshed = parallel.mesh[0] > 0 && parallel.mesh[1] > 0;
  fit(!hybrid || meshed, {"parallel.shard", "parallel.mesh"},
      "parallel.shard 'hybrid' needs parallel.mesh: [replicate, shard], such as [2, 2] for 4 "
      "ranks");
  fit(hybrid || (parallel.mesh[0] == 0 && parallel.mesh[1] == 0),
      {"parallel.mesh", "parallel.shard"}, "parallel.mesh is for parallel.shard 'hybrid', got '",
      parallel.shard, "'");
  fit(fsdp || parallel.shard == ShardMode(), {"parallel.shard", "parallel.strategy"},
      "parallel.shard '", parallel.shard, "' is for parallel.strategy 'fsdp', got '",
      parallel.strategy, "'");
  fit(fsdp || parallel.wrap == "blocks", {"parallel.wrap", "parallel.strategy"}, "parallel.wrap '",
      parallel.wrap, "' is for parallel.strategy 'fsdp', got '", parallel.strategy, "'");
}

void check_shards(const ParallelConfig& parallel, int ranks) {
  if (parallel.strategy != StrategyKind::fsdp) return;
  const auto [rows, columns] = parallel.mesh;
  check(parallel.shard.kind != ShardMode::Kind::hybrid || rows * columns == ranks,
        "parallel.mesh [", rows, ", ", columns, "] has ", rows * columns,
        " ranks, but the run has ", ranks);
  const int64_t nearby = parallel.shard.ranks;
  check(nearby == 0 || ranks % nearby == 0, "parallel.shard ", nearby, " does not divide the ",
        ranks, " ranks");
}

}  // namespace

void check_config(const Config& config) {
  const auto& [run, device, data, model, train, optim, parallel, checkpoint] = config;
  fit(is_folder_name(run.name), {"run.name"}, "run.name '", run.name,
      "' cannot be the name of a folder: expected one without '/'");
  fit(!run.dir.empty(), {"run.dir"}, "run.dir is empty: expected a folder");
  const auto is_path = [](const std::string& path) { return path.find('\0') == std::string::npos; };
  fit(is_path(run.dir), {"run.dir"}, "run.dir holds a zero byte, which no path can contain");
  fit(is_path(data.path), {"data.path"}, "data.path holds a zero byte, which no path can contain");
  check_data(data, model);
  check_model(model);
  check_batches(train);
  check_recompute(train, model);
  fit(optim.schedule.warmup <= train.steps, {"optim.schedule.warmup", "train.steps"},
      "optim.schedule.warmup (", optim.schedule.warmup, ") is longer than train.steps (",
      train.steps, ")");
  fit(optim.schedule.min_lr <= optim.lr, {"optim.schedule.min_lr", "optim.lr"},
      "optim.schedule.min_lr (", optim.schedule.min_lr, ") is above optim.lr (", optim.lr, ")");
  check_parallel(parallel);
  fit(device != DeviceKind::cuda || !parallel.offload, {"parallel.offload", "device"},
      "parallel.offload keeps state in files, which a CUDA device cannot read: set it to false, or "
      "device to cpu");
  constexpr int64_t kMostHeadSize = 256;  // limit of the device's attention kernels
  const int64_t head_size = model.is_language_model() ? model.dim / model.heads : 0;
  fit(device != DeviceKind::cuda || head_size <= kMostHeadSize,
      {"model.dim", "model.heads", "device"}, "model.dim / model.heads is ", head_size,
      ", but heads on a CUDA device have at most ", kMostHeadSize,
      " elements: set more heads, or device cpu");
}

void check_world_size(const Config& config, int world_size) {
  check(world_size >= 1, "the number of ranks must be at least 1, got ", world_size);
  check(config.parallel.strategy != StrategyKind::single || world_size == 1,
        "parallel.strategy 'single' takes one rank, got ", world_size,
        ": use 'ddp', or start one rank");
  const int64_t micro_batches = config.train.micro_batches();
  check(world_size <= micro_batches, "more ranks (", world_size, ") than micro-batches (",
        micro_batches, " = train.global_batch ", config.train.global_batch, " / train.micro_batch ",
        config.train.micro_batch, "): start at most ", micro_batches,
        " ranks, or make train.micro_batch smaller");
  check_shards(config.parallel, world_size);
}

}  // namespace lockstep::train
