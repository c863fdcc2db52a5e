// Writes a folder of safetensors files as Hugging Face lays them out: model.safetensors, or
// model-00001-of-0000N.safetensors… with model.safetensors.index.json, and texts such as
// config.json beside them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/tensor/tensor.h"

namespace lockstep::checkpoint {

// A tensor to write. `values` is called when its turn comes, so memory holds one tensor at a
// time.
struct WantedTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::function<Tensor()> values;  // contiguous, on the host
};

struct FolderRequest {
  std::string dir;                    // must not exist yet
  std::vector<WantedTensor> tensors;  // split in this order
  // A file takes tensors until the next one would exceed this. A larger tensor gets a file of its
  // own. 0: one file for all.
  int64_t max_shard_bytes = 0;
  std::map<std::string, std::string> texts = {};  // file name → contents
};

struct WrittenFolder {
  std::vector<std::string> files;  // of tensors, in order
  int64_t bytes = 0;               // of all tensors
};

// Writes a temporary folder, syncs it and renames it: `dir` appears complete or not at all.
// UsageError if `dir` exists. EnvironmentError with operation, path and errno; then nothing is
// left.
WrittenFolder write_safetensors_folder(const FolderRequest& request);

}  // namespace lockstep::checkpoint
