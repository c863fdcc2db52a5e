// Exports a checkpoint to a folder that other programs can read.
#include "checkpoint/checkpoint.h"
#include "checkpoint/exchange/safetensors_folder.h"
#include "train/exchange/exchange.h"
#include "train/exchange/layout.h"
#include "train/models/factory.h"
#include "train/run/checkpoints.h"
#include "train/run/saved_model.h"

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

// The parameters and buffers of the model, under its own names.
std::vector<NamePair> own_names(const Config& config) {
  std::vector<NamePair> names;
  const auto module = build_model(config, InitialValues::deferred).module;
  for (const Parameter& p : module->parameters()) names.push_back({p.name(), p.name()});
  for (const auto& [name, values] : module->buffers()) names.push_back({name, name});
  return names;
}

}  // namespace

Exported export_checkpoint(const ExportRequest& request) {
  const auto saved = Checkpoint::open(find_checkpoint(request.checkpoint));
  const Config config = saved_config(saved);
  checkpoint::FolderRequest folder{
      .dir = request.dir, .tensors = {}, .max_shard_bytes = request.max_shard_bytes, .texts = {}};
  std::vector<NamePair> names;
  if (request.format == "safetensors") {
    names = own_names(config);
  } else {
    const Layout& layout = request.format.empty() ? layout_of_kind(config.model.kind)
                                                  : layout_of_format(request.format);
    check(layout.kind == config.model.kind, "format ", layout.format, " is for model.kind ",
          layout.kind, ", and this model is of kind ", config.model.kind);
    folder.texts["config.json"] = layout.to_config_json(config.model);
    names = layout.tensors(config.model);
  }
  folder.texts["lockstep.yaml"] = to_yaml(config);
  for (const NamePair& pair : names) folder.tensors.push_back(wanted(saved, pair));
  const auto written = checkpoint::write_safetensors_folder(folder);
  return {.checkpoint = saved.folder(),
          .files = written.files,
          .tensors = static_cast<int64_t>(names.size()),
          .bytes = written.bytes};
}

}  // namespace lockstep::train
