// Config: all settings of a training run, typed and checked. One table of keys (config/keys.h)
// drives parsing, overrides, the resolved text, the digest and the documentation. The initial
// values below are the defaults.
//
//   Config config = load_config("configs/kjv_gpt.yaml", {"train.steps=500"});
//
// Fields with a fixed set of words are enums (config/words.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/config/words.h"

namespace lockstep::train {

struct RunConfig {
  std::string name = "run";  // the run's folder is dir/name
  std::string dir = "runs";
  int64_t seed = 1337;
};

struct DataConfig {
  DataKind kind = DataKind::text;
  std::string path;  // a file, or a folder whose files are read in name order
  TokenizerKind tokenizer = TokenizerKind::bytes;
  double validation = 0.1;  // the part at the end of the text that is kept for evaluation
};

struct ModelConfig {
  ModelKind kind = ModelKind::gpt;
  int64_t layers = 4;   // gpt, llama: blocks; mlp: hidden layers
  int64_t heads = 4;    // gpt, llama
  int64_t dim = 128;    // gpt, llama: width; mlp: width of the hidden layers
  int64_t block = 64;   // gpt, llama: tokens of a sequence; mlp: input features
  int64_t vocab = 256;  // gpt, llama: tokens; mlp: classes
  double dropout = 0.0;
  Activation activation = Activation::gelu;  // gpt
  double norm_eps = 1e-5;                    // gpt, llama
  bool scaled_residual_init = false;         // gpt
  int64_t kv_heads = 0;                      // llama; 0: as many as heads
  // llama: width of the feed-forward parts. 0: 8/3 of dim, rounded up to a multiple of 8.
  int64_t hidden = 0;
  double rope_theta = 10000.0;  // llama
  bool tied_head = false;       // llama

  // These resolve the zeros above.
  int64_t key_value_heads() const { return kv_heads > 0 ? kv_heads : heads; }
  int64_t feed_forward_width() const { return hidden > 0 ? hidden : (dim * 8 / 3 + 7) / 8 * 8; }
  // Whether the model reads tokens.
  bool is_language_model() const { return kind != ModelKind::mlp; }
};

struct TrainConfig {
  int64_t steps = 1000;
  int64_t global_batch = 16;  // samples a step, over all ranks
  int64_t micro_batch = 4;    // samples of one forward and backward pass
  Precision precision = Precision::fp32;
  double grad_clip = 1.0;     // largest gradient norm; 0: no clipping
  int64_t eval_every = 100;   // steps; 0: only after the last one
  int64_t eval_batches = 16;  // micro-batches of an evaluation; 0: no evaluation
  int64_t log_every = 10;     // steps between lines on a screen that is not a terminal
  Recompute recompute = Recompute::none;
  int64_t recompute_every = 1;  // every k-th block
  int64_t memory_limit_mb = 0;  // of a rank's tensors; 0: none
  CaptureKind capture = CaptureKind::automatic;

  // V of the numerics contract: the leaves of the reduction tree.
  int64_t micro_batches() const { return global_batch / micro_batch; }
};

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::constant;
  int64_t warmup = 0;  // steps
  double min_lr = 0.0;
};

struct OptimConfig {
  OptimKind kind = OptimKind::adamw;
  double lr = 1e-3;
  std::array<double, 2> betas = {0.9, 0.999};
  double eps = 1e-8;
  double weight_decay = 0.01;
  double momentum = 0.0;  // sgd
  ScheduleConfig schedule;
};

struct ParallelConfig {
  StrategyKind strategy = StrategyKind::ddp;
  BackendKind backend = BackendKind::automatic;
  ShardMode shard = {};  // fsdp
  // fsdp, hybrid: [replicate, shard]. Their product is the number of ranks.
  std::array<int64_t, 2> mesh = {0, 0};
  // fsdp: blocks, none, or paths of modules that are gathered as one.
  std::string wrap = "blocks";
  int64_t units_in_flight = 2;  // fsdp: units gathered at a time, beside the root
  ReductionKind reduction = ReductionKind::tree;
  double bucket_mb = 25.0;
  double timeout_s = 0.0;     // of every collective; 0: GroupOptions' default
  int64_t check_every = 100;  // steps; 0: replicas of the weights are not compared
  bool offload = false;       // optimizer states and FSDP's slices lie in files below run.dir
};

struct CheckpointConfig {
  int64_t every = 0;          // steps; 0: none by steps
  double every_minutes = 15;  // since the last one; 0: none by time
  int64_t keep = 3;           // the newest ones stay; 0: all
  bool async = false;
  // From a request to stop to the end of the save. 0: no limit.
  double stop_budget_s = 25;
  int64_t replica_every = 0;  // steps; 0: no copies in memory
};

struct Config {
  RunConfig run;
  DeviceKind device = DeviceKind::automatic;
  DataConfig data;
  ModelConfig model;
  TrainConfig train;
  OptimConfig optim;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
};

// A value that neither a file nor a user's --set gave. `origin` names its source in messages:
// "gpt2/config.json: 'n_embd'".
struct Preset {
  std::string assignment;  // key=value
  std::string origin;
};

// Reads a YAML file (at most 1 MiB, 32 levels, no anchors or aliases), then applies presets, then
// overrides "key=value". The last one wins. Throws UsageError for any fault: "FILE:LINE:COLUMN:
// unknown key 'train.micro_btch'; did you mean 'micro_batch'?".
Config load_config(const std::string& file, std::span<const std::string> overrides = {},
                   std::span<const Preset> presets = {});
// The same from text. `name` replaces the file in messages.
Config parse_config(const std::string& text, const std::string& name,
                    std::span<const std::string> overrides = {},
                    std::span<const Preset> presets = {});

// Checks what a single key's range cannot express: keys that must fit each other. Both loaders call
// it.
void check_config(const Config& config);
// Checks what depends on the number of ranks. Throws UsageError if there are more ranks than
// micro-batches, or more than `strategy` allows.
void check_world_size(const Config& config, int world_size);

// The resolved config as YAML, with every key. parse_config() of it gives the same config.
std::string to_yaml(const Config& config);

// How far a key reaches. Each scope includes those after it.
enum class KeyScope : uint8_t {
  local,   // may differ between ranks (paths of files, amount of output)
  group,   // must be equal on all ranks, but results do not depend on it
  result,  // the trained bits depend on it
};
// One "key=value" a line, sorted by key, of all keys that reach at least as far as `scope`. Equal
// configs give equal texts.
std::string canonical_text(const Config& config, KeyScope scope = KeyScope::group);
// SHA-256, as hex, of the keys that the trained bits depend on. Runs with equal digest and data end
// with equal weights.
std::string config_digest(const Config& config);

struct ConfigDifference {
  std::string key;
  std::string a, b;  // the values; "(absent)" where a text lacks the key
};
// The keys, in order, in which two canonical texts differ.
std::vector<ConfigDifference> differences(std::string_view a, std::string_view b);

// All keys with type, default, range and meaning, as a Markdown table.
std::string key_table();

}  // namespace lockstep::train
