#include "train/config/keys.h"

#include <algorithm>

namespace lockstep::train {
namespace {

// Counters of random streams and token indices have 32 bits.
constexpr double kMaxInt32 = 2147483647.0;
constexpr Range kCount{0, kMaxInt32};
constexpr Range kPositive{1, kMaxInt32};
constexpr Range kAboveZero{.min = 0, .min_excluded = true};
constexpr Range kNotNegative{.min = 0};
constexpr Range kFraction{.min = 0, .max = 1, .max_excluded = true};

template <typename T>
FieldPointer pointer_to(T& field) {
  return &field;
}
template <Word E>
FieldPointer pointer_to(E& field) {
  static_assert(sizeof(E) == 1);
  return WordField{reinterpret_cast<uint8_t*>(&field), kWords<E>};
}
#define LOCKSTEP_FIELD(member) [](Config& config) { return pointer_to(config.member); }

const std::vector<Key>& table() {
  using enum KeyScope;
  static const std::vector<Key> keys = {
      {"run.name", LOCKSTEP_FIELD(run.name), "name of the run; its folder is `run.dir`/`run.name`",
       local},
      {"run.dir", LOCKSTEP_FIELD(run.dir), "folder that contains the runs", local},
      {"run.seed",
       LOCKSTEP_FIELD(run.seed),
       "seed of initial weights, data order and dropout",
       result,
       {0, 9007199254740992.0}},

      {"device", LOCKSTEP_FIELD(device),
       "where ranks compute; `auto`: `cuda` if a real CUDA device (not a simulated one) is usable, "
       "else `cpu`; see [gpu.md](gpu.md)",
       result},

      {"data.kind", LOCKSTEP_FIELD(data.kind),
       "`text`: text files; `random`: random numbers, which need no file", result},
      {"data.path", LOCKSTEP_FIELD(data.path),
       "text file, or a folder of text files, which are read in name order", local},
      {"data.tokenizer", LOCKSTEP_FIELD(data.tokenizer),
       "how text becomes tokens; `bytes`: each byte is a token", result},
      {"data.validation", LOCKSTEP_FIELD(data.validation),
       "fraction of the text, at its end, that is kept for evaluation", result,
       Range{.min = 0, .max = 0.5, .min_excluded = true}},

      {"model.kind", LOCKSTEP_FIELD(model.kind), "model architecture", result},
      {"model.layers",
       LOCKSTEP_FIELD(model.layers),
       "gpt, llama: number of blocks; mlp: number of hidden layers",
       result,
       {1, 10000}},
      {"model.heads", LOCKSTEP_FIELD(model.heads),
       "gpt, llama: number of attention heads; must divide `model.dim`", result, kPositive},
      {"model.dim",
       LOCKSTEP_FIELD(model.dim),
       "gpt, llama: width of the model; mlp: width of the hidden layers",
       result,
       {1, 1048576}},
      {"model.block",
       LOCKSTEP_FIELD(model.block),
       "gpt, llama: tokens in a sequence; mlp: number of input features",
       result,
       {1, 16777216}},
      {"model.vocab",
       LOCKSTEP_FIELD(model.vocab),
       "gpt, llama: size of the vocabulary (256 for bytes); mlp: number of classes",
       result,
       {2, 16777216}},
      {"model.dropout", LOCKSTEP_FIELD(model.dropout),
       "fraction of activations that a training step drops", result, kFraction},
      {"model.activation", LOCKSTEP_FIELD(model.activation),
       "gpt: activation between the two feed-forward layers; GPT-2 uses `gelu_tanh`", result},
      {"model.norm_eps", LOCKSTEP_FIELD(model.norm_eps),
       "gpt, llama: term added to the variance in norms", result, kAboveZero},
      {"model.scaled_residual_init", LOCKSTEP_FIELD(model.scaled_residual_init),
       "gpt: smaller initial weights of residual projections, as in GPT-2", result},
      {"model.kv_heads", LOCKSTEP_FIELD(model.kv_heads),
       "llama: number of key and value heads; must divide `model.heads`; 0: as many as "
       "`model.heads`",
       result, kCount},
      {"model.hidden",
       LOCKSTEP_FIELD(model.hidden),
       "llama: width of the feed-forward layers; 0: 8/3 of `model.dim`, rounded up to a multiple "
       "of 8",
       result,
       {0, 16777216}},
      {"model.rope_theta", LOCKSTEP_FIELD(model.rope_theta),
       "llama: base of the wavelengths of rotary positions", result, kAboveZero},
      {"model.tied_head", LOCKSTEP_FIELD(model.tied_head),
       "llama: the head uses the weights of the token embedding", result},

      {"train.steps", LOCKSTEP_FIELD(train.steps), "optimizer steps in the whole run", result,
       kPositive},
      {"train.global_batch", LOCKSTEP_FIELD(train.global_batch),
       "samples in a step, over all ranks", result, kPositive},
      {"train.micro_batch", LOCKSTEP_FIELD(train.micro_batch),
       "samples in one forward and backward pass; must divide `train.global_batch`", result,
       kPositive},
      {"train.precision", LOCKSTEP_FIELD(train.precision),
       "precision of matrix products; weights and sums are always fp32. fp16 is for CUDA devices, "
       "and scales the loss as gradients allow",
       result},
      {"train.grad_clip", LOCKSTEP_FIELD(train.grad_clip), "largest gradient norm; 0: no clipping",
       result, kNotNegative},
      {"train.eval_every", LOCKSTEP_FIELD(train.eval_every),
       "steps between evaluations; 0: only after the last step", group, kCount},
      {"train.eval_batches", LOCKSTEP_FIELD(train.eval_batches),
       "micro-batches in an evaluation; 0: no evaluation", group, kCount},
      {"train.log_every", LOCKSTEP_FIELD(train.log_every),
       "steps between lines of output that is not a terminal; a step with an evaluation always "
       "prints one",
       local, kPositive},

      {"train.recompute", LOCKSTEP_FIELD(train.recompute),
       "`blocks`: keep only the inputs of blocks, and compute the rest again in backward; less "
       "memory, same bits",
       group},
      {"train.recompute_every", LOCKSTEP_FIELD(train.recompute_every),
       "with `train.recompute: blocks`: recompute only every k-th block", group, kPositive},
      {"train.memory_limit_mb", LOCKSTEP_FIELD(train.memory_limit_mb),
       "limit for the tensors of one rank, in MB (10^6 bytes); 0: no limit", local, kCount},
      {"train.capture", LOCKSTEP_FIELD(train.capture),
       "`auto`: on a device, record a step's work once and launch it as a whole from then "
       "on, where that is possible; same bits",
       group},

      {"optim.kind", LOCKSTEP_FIELD(optim.kind), "optimizer", result},
      {"optim.lr", LOCKSTEP_FIELD(optim.lr), "learning rate after the warm-up", result, kAboveZero},
      {"optim.betas", LOCKSTEP_FIELD(optim.betas), "adam, adamw: decay rates of the two averages",
       result, kFraction},
      {"optim.eps", LOCKSTEP_FIELD(optim.eps), "adam, adamw: term added to the denominator", result,
       kAboveZero},
      {"optim.weight_decay", LOCKSTEP_FIELD(optim.weight_decay),
       "decay of weight matrices; other parameters have none", result, kNotNegative},
      {"optim.momentum", LOCKSTEP_FIELD(optim.momentum), "sgd: momentum", result, kFraction},
      {"optim.schedule.kind", LOCKSTEP_FIELD(optim.schedule.kind),
       "how the learning rate falls after the warm-up", result},
      {"optim.schedule.warmup", LOCKSTEP_FIELD(optim.schedule.warmup),
       "steps in which the learning rate rises from 0", result, kCount},
      {"optim.schedule.min_lr", LOCKSTEP_FIELD(optim.schedule.min_lr),
       "linear, cosine: learning rate at the last step", result, kNotNegative},

      {"parallel.strategy", LOCKSTEP_FIELD(parallel.strategy), "how ranks share the work", group},
      {"parallel.shard", LOCKSTEP_FIELD(parallel.shard),
       "fsdp: what is sharded. `full`: everything; `grad`: everything, but the weights stay whole "
       "during a step; `optim`: optimizer states; `hybrid`: everything, within each row of "
       "`parallel.mesh`; a number: everything, and backward gathers within groups of that many "
       "ranks",
       group},
      {"parallel.mesh", LOCKSTEP_FIELD(parallel.mesh),
       "hybrid: `[replicate, shard]`; the `shard` ranks of a row hold the whole model together",
       group, kCount},
      {"parallel.wrap", LOCKSTEP_FIELD(parallel.wrap),
       "fsdp: what is gathered as one unit. `blocks`: each block; `none`: the whole model; "
       "otherwise paths of modules, such as `blocks.0, blocks.2`; `*` stands for any one name",
       group},
      {"parallel.units_in_flight", LOCKSTEP_FIELD(parallel.units_in_flight),
       "fsdp: number of blocks that may be whole at a time; above 1, the next ones are fetched "
       "ahead",
       group, kPositive},
      {"parallel.backend", LOCKSTEP_FIELD(parallel.backend),
       "how ranks communicate; `auto` takes nccl where each rank has a CUDA device, otherwise mpi "
       "under mpirun, shm on one host, ucx between hosts",
       group},
      {"parallel.reduction", LOCKSTEP_FIELD(parallel.reduction),
       "`tree`: one order of summation, equal bits on any number of ranks; `fast`: the backend's "
       "own order, which differs only in `mpi` and `nccl`",
       result},
      {"parallel.bucket_mb", LOCKSTEP_FIELD(parallel.bucket_mb),
       "size of the buckets in which gradients are reduced, in MB", group,
       Range{.min = 0, .max = 65536, .min_excluded = true}},
      {"parallel.timeout_s", LOCKSTEP_FIELD(parallel.timeout_s),
       "seconds that ranks wait in a collective for a missing rank; 0: 1800 s if it is computing, "
       "30 s if it is stopped",
       group, Range{.min = 0, .max = 86400}},
      {"parallel.check_every", LOCKSTEP_FIELD(parallel.check_every),
       "steps between comparisons of the weights that several ranks hold alike (ddp; fsdp with "
       "hybrid shards), which every save and the end of the run compare as well; 0: none",
       group, kCount},
      {"parallel.offload", LOCKSTEP_FIELD(parallel.offload),
       "keep optimizer states, and fsdp's slices of the parameters, in unnamed files below "
       "`run.dir` instead of memory",
       group},

      {"checkpoint.every", LOCKSTEP_FIELD(checkpoint.every),
       "steps between checkpoints; 0: none by steps. A run always saves at its end and when it is "
       "stopped",
       group, kCount},
      {"checkpoint.every_minutes", LOCKSTEP_FIELD(checkpoint.every_minutes),
       "minutes since the last checkpoint after which a run saves, at the end of a step; 0: none "
       "by time",
       group, kNotNegative},
      {"checkpoint.keep", LOCKSTEP_FIELD(checkpoint.keep),
       "number of newest checkpoints to keep; 0: all", group, kCount},
      {"checkpoint.async", LOCKSTEP_FIELD(checkpoint.async),
       "write checkpoints while training continues", group},
      {"checkpoint.stop_budget_s", LOCKSTEP_FIELD(checkpoint.stop_budget_s),
       "seconds that a requested stop may take, including its save; rank 0 warns if it would take "
       "longer; 0: no limit, no warning",
       group, Range{.min = 0, .max = 86400}},
      {"checkpoint.replica_every", LOCKSTEP_FIELD(checkpoint.replica_every),
       "steps between copies of the state in memory, from which restarted ranks resume "
       "(`--max-restarts`); 0: none",
       group, kCount},
  };
  return keys;
}

#undef LOCKSTEP_FIELD

// Number of edits (insert, delete, replace, swap of neighbours) from one word to the other.
size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i)
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

// Without a dot this is the whole name, because npos + 1 is 0.
std::string_view last_part(std::string_view name) { return name.substr(name.rfind('.') + 1); }
std::string_view group_part(std::string_view name) { return name.substr(0, name.rfind('.') + 1); }

// The name that was probably meant. Names of the key's own group come first, compared by their last
// part, then all others.
std::string suggestion(std::string_view name) {
  std::string best;
  // In a word of three letters, two wrong ones leave nothing to recognize.
  const size_t length = last_part(name).size();
  size_t best_distance = 1 + std::max<size_t>(length <= 3 ? 1 : 2, length / 3);
  const auto offer = [&](std::string_view candidate, size_t edits) {
    if (edits >= best_distance) return;
    best_distance = edits;
    best = candidate;
  };
  for (const Key& key : table())
    if (group_part(key.name) == group_part(name))
      offer(last_part(key.name), distance(last_part(name), last_part(key.name)));
  if (!best.empty()) return best;
  for (const Key& key : table()) {
    offer(key.name, distance(last_part(name), last_part(key.name)));
    offer(key.name, distance(name, key.name));
    const std::string_view first = key.name.substr(0, key.name.find('.'));
    if (name.find('.') == std::string_view::npos) offer(first, distance(name, first));
  }
  return best;
}

}  // namespace

std::span<const Key> keys() { return table(); }

const Key* find_key(std::string_view name) {
  const auto& all = table();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Key& key) { return key.name == name; });
  return found == all.end() ? nullptr : &*found;
}

void throw_unknown_key(const std::string& name, const std::string& where) {
  const std::string near = suggestion(name);
  throw UsageError(str(where, ": unknown key '", name, "'",
                       near.empty() ? "; docs/configuration.md lists all keys"
                                    : str("; did you mean '", near, "'?")));
}

}  // namespace lockstep::train
