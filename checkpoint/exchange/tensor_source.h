// Named tensors on disk, whoever wrote them: a checkpoint of ours, a safetensors file, or a folder of such files with or without an
// index, as Hugging Face lays them out. Values are read in pieces, so a source costs no memory but its list of names.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace lockstep::checkpoint {

struct StoredTensor {
  std::string dtype;  // the safetensors format's word: "F32"; also of types that lockstep computes nothing with
  Shape shape;
  int64_t bytes = 0;
};

// Immutable: reads may come from several threads.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const std::map<std::string, StoredTensor>& tensors() const = 0;
  // Bytes [offset, offset + bytes) of the row-major elements of a tensor that is there; both multiples of the element's size.
  virtual void read(const std::string& name, int64_t offset, int64_t bytes, void* to) const = 0;
  // What was opened: a checkpoint's folder, a file, or a folder of files.
  virtual const std::string& path() const = 0;
};

// `path`: a checkpoint, a run or a folder of checkpoints (the newest good one is taken), a safetensors file, or a folder with
// model.safetensors.index.json, model.safetensors, or safetensors files in which no name occurs twice. Every header and the index are
// checked here: EnvironmentError naming the file; UsageError where there is nothing of this kind at `path`.
std::unique_ptr<TensorSource> open_tensors(const std::string& path);

}  // namespace lockstep::checkpoint
