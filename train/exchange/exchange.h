// Models to and from other programs' folders (docs/formats/huggingface.md).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lockstep::train {

struct ExportRequest {
  std::string checkpoint;  // a checkpoint, or a run (its newest good one)
  std::string dir;         // must not exist yet
  // hf-gpt2, hf-llama, or safetensors: our names, without the optimizer's tensors. Empty: the
  // model's own of the first two.
  std::string format = {};
  int64_t max_shard_bytes = 0;  // 0: one file
};
struct Exported {
  std::string checkpoint;
  std::vector<std::string> files;  // of tensors
  int64_t tensors = 0, bytes = 0;
};
// One tensor is in memory at a time. Throws UsageError where `dir` exists or the format does not
// fit the model.
Exported export_checkpoint(const ExportRequest& request);

struct ImportRequest {
  std::string folder;  // with config.json and safetensors files
  std::string run;     // the new run's folder
  std::string
      config;  // a YAML file whose other sections are taken over; empty: defaults, with random data
  std::vector<std::string> overrides;  // key=value
  bool ignore_unexpected = false;
};
// What came of every tensor. Lines name the tensor, and for misshapen ones what was expected and
// found.
struct ImportReport {
  std::string
      checkpoint;  // the new one; empty where anything was wrong, and then nothing was written
  int64_t imported = 0;  // tensors
  std::vector<std::string> missing, unexpected, misshapen;
  std::vector<std::string> notes;
};
// Makes a run whose checkpoint of step 0 holds the folder's weights: `lockstep generate RUN`, or
// `lockstep train RUN/config.yaml
// --resume auto`. Weights are converted to f32.
ImportReport import_folder(const ImportRequest& request);

}  // namespace lockstep::train
