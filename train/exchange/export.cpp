// From a checkpoint to a folder that others read.
#include "checkpoint/checkpoint.h"
#include "checkpoint/exchange/safetensors_folder.h"
#include "train/checkpoints.h"
#include "train/exchange/exchange.h"
#include "train/exchange/gpt2.h"
#include "train/models/factory.h"
#include "train/saved_model.h"

namespace lockstep::train {
namespace {

using checkpoint::Checkpoint;
using checkpoint::WantedTensor;

WantedTensor wanted(const Checkpoint& saved, const NamePair& pair) {
  const auto found = saved.manifest().entries.find(pair.ours);
  check(found != saved.manifest().entries.end(), saved.folder(), " holds no '", pair.ours, "'");
  const auto& entry = found->second;
  Shape shape = entry.shape;
  if (pair.transposed) shape = {entry.shape[1], entry.shape[0]};
  return {.name = pair.theirs, .dtype = entry.dtype, .shape = shape, .values = [&saved, pair] {
            const Tensor ours = saved.read_whole(pair.ours);
            return pair.transposed ? ours.transpose(0, 1).contiguous() : ours;
          }};
}

// The parameters, which is what the model has names for, under these names.
std::vector<NamePair> own_names(const Config& config) {
  std::vector<NamePair> names;
  for (const Parameter& p : build_model(config, InitialValues::deferred).module->parameters()) names.push_back({p.name(), p.name()});
  return names;
}

}  // namespace

Exported export_checkpoint(const ExportRequest& request) {
  check(request.format == "hf-gpt2" || request.format == "safetensors", "unknown format '", request.format,
        "': expected hf-gpt2 or safetensors");
  const auto saved = Checkpoint::open(find_checkpoint(request.checkpoint));
  const Config config = saved_config(saved);
  checkpoint::FolderRequest folder{.dir = request.dir, .tensors = {}, .max_shard_bytes = request.max_shard_bytes, .texts = {}};
  std::vector<NamePair> names;
  if (request.format == "hf-gpt2") {
    folder.texts["config.json"] = gpt2_config_json(config.model);
    names = gpt2_tensors(config.model);
    for (NamePair& pair : names) pair.theirs = "transformer." + pair.theirs;
  } else {
    names = own_names(config);
  }
  folder.texts["lockstep.yaml"] = to_yaml(config);
  for (const NamePair& pair : names) folder.tensors.push_back(wanted(saved, pair));
  const auto written = checkpoint::write_safetensors_folder(folder);
  return {.checkpoint = saved.folder(), .files = written.files, .tensors = static_cast<int64_t>(names.size()), .bytes = written.bytes};
}

}  // namespace lockstep::train
