// Named tensors on disk, from any program: our checkpoints, a safetensors file, or a folder of such
// files with or without an index, as Hugging Face writes it. Values are read in pieces, so a source
// takes memory only for its list of names, which is compact.
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
  std::string_view name;   // valid as long as the source
  std::string_view dtype;  // dtype name of the safetensors format, such as "F32"; includes
                           // types that lockstep cannot compute with; static
  Shape shape;
  int64_t bytes = 0;
};

// Immutable: several threads may read from it.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Tensors are numbered in ascending order of their names (by bytes). Each name occurs once.
  virtual size_t size() const = 0;
  virtual std::string_view name(size_t tensor) const = 0;
  virtual StoredTensor operator[](size_t tensor) const = 0;
  // Reads bytes [offset, offset + bytes) of a tensor's row-major elements. Both must be multiples
  // of the element size.
  virtual void read(size_t tensor, int64_t offset, int64_t bytes, void* to) const = 0;
  // The opened path: a checkpoint's folder, a file, or a folder of files.
  virtual const std::string& path() const = 0;

  // Returns the number of the tensor with this name.
  std::optional<size_t> find(std::string_view name) const;
};

// `path`: a checkpoint; a run or a folder of checkpoints (uses the newest good one); a
// safetensors file; or a folder with model.safetensors, else model.safetensors.index.json, else
// safetensors files in which no name occurs twice. Checks every header and the index:
// EnvironmentError that names the file. Throws UsageError if there is nothing of this kind at
// `path`.
std::unique_ptr<TensorSource> open_tensors(const std::string& path);

}  // namespace lockstep::checkpoint
