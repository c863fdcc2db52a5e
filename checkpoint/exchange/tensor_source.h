// Named tensors on disk, whoever wrote them: a checkpoint of ours, a safetensors file, or a folder
// of such files with or without an index, as Hugging Face lays them out. Values are read in pieces,
// so a source costs no memory but its list of names, kept compactly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "core/base/dtype.h"
#include "core/base/shape.h"

namespace lockstep::checkpoint {

struct StoredTensor {
  std::string_view name;   // lives as long as the source
  std::string_view dtype;  // the safetensors format's word: "F32"; also of types that lockstep
                           // computes nothing with; static
  Shape shape;
  int64_t bytes = 0;
};

// Immutable: reads may come from several threads.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Tensors are numbered in the ascending order of their names, by bytes; each name is there once.
  virtual size_t size() const = 0;
  virtual std::string_view name(size_t tensor) const = 0;
  virtual StoredTensor operator[](size_t tensor) const = 0;
  // Bytes [offset, offset + bytes) of the row-major elements of a tensor; both multiples of the
  // element's size.
  virtual void read(size_t tensor, int64_t offset, int64_t bytes, void* to) const = 0;
  // What was opened: a checkpoint's folder, a file, or a folder of files.
  virtual const std::string& path() const = 0;

  // The number of the tensor of this name.
  std::optional<size_t> find(std::string_view name) const;
};

// `path`: a checkpoint, a run or a folder of checkpoints (the newest good one is taken), a
// safetensors file, or a folder with model.safetensors, model.safetensors.index.json (the first of
// both is taken), or safetensors files in which no name occurs twice. Every header and the index
// are checked here: EnvironmentError naming the file; UsageError where there is nothing of this
// kind at `path`.
std::unique_ptr<TensorSource> open_tensors(const std::string& path);

}  // namespace lockstep::checkpoint
