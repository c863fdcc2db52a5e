// Converts models from and to other programs' folders (docs/formats/huggingface.md).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lockstep::train {

struct ExportRequest {
  std::string checkpoint;  // a checkpoint, or a run (its newest good one)
  std::string dir;         // must not exist yet
  // hf-gpt2, hf-llama, or safetensors (our names, without the optimizer's tensors). Empty: hf-gpt2
  // or hf-llama, as the model's kind needs.
  std::string format = {};
  int64_t max_shard_bytes = 0;  // 0: one file
};
struct Exported {
  std::string checkpoint;
  std::vector<std::string> files;  // of tensors
  int64_t tensors = 0, bytes = 0;
};
// Holds one tensor in memory at a time. Throws UsageError if `dir` exists or the format does not
// fit the model.
Exported export_checkpoint(const ExportRequest& request);

struct ImportRequest {
  std::string folder;  // with config.json and safetensors files
  std::string run;     // the new run's folder
  // A YAML file whose other sections are used. Empty: defaults, with random data.
  std::string config;
  std::vector<std::string> overrides;  // key=value
  bool ignore_unexpected = false;
};
// What happened to every tensor. Lines name the tensor. For misshapen ones they also give the
// expected and the found shape.
struct ImportReport {
  // The new checkpoint. Empty if anything was wrong. Then nothing was written.
  std::string checkpoint;
  int64_t imported = 0;  // tensors
  std::vector<std::string> missing, unexpected, misshapen;
  std::vector<std::string> notes;
};
// Makes a run whose checkpoint of step 0 holds the folder's weights, converted to f32. Use it with
// `lockstep generate RUN` or `lockstep train RUN/config.yaml --resume auto`.
ImportReport import_folder(const ImportRequest& request);

}  // namespace lockstep::train
