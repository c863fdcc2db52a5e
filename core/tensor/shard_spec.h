// ShardSpec: which part of a global tensor a rank holds. fsdp writes it, checkpoint reads it; they
// never meet otherwise.
#pragma once

#include <cstdint>

#include "core/base/shape.h"

namespace lockstep {

struct ShardSpec {
  Shape global_shape;
  int64_t offset = 0;  // of the first local element in the flattened global tensor, in elements
  int64_t length = 0;  // local elements; may be 0

  static ShardSpec whole(const Shape& shape) { return {shape, 0, shape.numel()}; }
  bool is_whole() const { return offset == 0 && length == global_shape.numel(); }
};

}  // namespace lockstep
