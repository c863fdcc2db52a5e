// ShardSpec: which part of a global tensor a rank holds. Sharding code writes it, and checkpoint
// code reads it; these two know nothing else of each other.
//
// A part is either a run of the flattened tensor, like FSDP's slices, or a box: a range in every
// dimension, like some columns of a matrix. If a box's elements are contiguous in the flattened
// tensor, it is the same part as that run and is stored as the run. So equal parts always compare
// equal, and is_box() is true only for parts that no run can describe.
//
// A part's values are in a tensor of their own, row-major and dense. An "element" is an index into
// the flattened global tensor; a "position" is an index into the part's own values.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/shape.h"

namespace lockstep {

// Immutable, except for assignment.
class ShardSpec {
 public:
  ShardSpec() = default;  // no elements, of a scalar
  // `length` elements, starting at element `offset`. UsageError unless they are in the tensor.
  ShardSpec(const Shape& global_shape, int64_t offset, int64_t length);
  static ShardSpec whole(const Shape& shape) { return {shape, 0, shape.numel()}; }
  // In each dimension `lengths` indices, starting at `offsets`. UsageError unless both have a
  // number for each dimension and the box is in the tensor.
  static ShardSpec box(const Shape& global_shape, const Shape& offsets, const Shape& lengths);

  const Shape& global_shape() const { return global_shape_; }
  // The first element. 0 for a part without elements.
  int64_t offset() const { return offset_; }
  // The number of elements.
  int64_t length() const { return length_; }
  // One past the last element; offset() for a part without elements.
  int64_t end() const;
  bool is_whole() const { return offset_ == 0 && length_ == global_shape_.numel(); }
  // True if the elements are not contiguous in the flattened tensor.
  bool is_box() const { return box_ != nullptr; }
  // The dimensions of a box. UsageError for a run.
  const Shape& offsets() const { return the_box().offsets; }
  const Shape& lengths() const { return the_box().lengths; }
  // The natural shape of the values: the tensor's for the whole, the box's, or [length] for a run.
  Shape shape() const;

  // The position of an element in the part, or -1 if it is not there.
  int64_t position(int64_t element) const;
  // How many of the part's elements come before this element, which need not be in the part.
  int64_t positions_before(int64_t element) const;
  // A part may be cut at multiples of this many positions, and both sides are parts. A run may be
  // cut anywhere; a box between slices along its first dimension with a length above 1.
  int64_t cut_unit() const;
  // The positions [begin, end); each must be a multiple of cut_unit() or the length.
  ShardSpec cut(int64_t begin, int64_t end) const;

  friend bool operator==(const ShardSpec& a, const ShardSpec& b);
  // "elements 4 to 8 of [2, 8]", "[0:2, 4:8] of [2, 8]".
  friend std::ostream& operator<<(std::ostream& out, const ShardSpec& part);

 private:
  struct Box {
    Shape offsets, lengths;
  };
  const Box& the_box() const;

  Shape global_shape_;
  int64_t offset_ = 0;
  int64_t length_ = 0;
  std::shared_ptr<const Box> box_;  // null for a run
};

// The functions below take parts of one tensor, and throw UsageError if the shapes differ.

// Whether two parts have an element in common.
bool overlap(const ShardSpec& a, const ShardSpec& b);

// Elements that are contiguous in the global tensor and in two parts of it.
struct CommonRun {
  int64_t element = 0;  // the first one
  int64_t in_a = 0;     // its position in each part
  int64_t in_b = 0;
  int64_t length = 0;  // in elements
};
// Calls visit(run) for the runs that two parts have in common, in ascending order. Only positions
// [begin, end) of `a` count. The time depends on the number of runs, not on the number of
// elements.
void for_each_common_run(const ShardSpec& a, int64_t begin, int64_t end, const ShardSpec& b,
                         const std::function<void(const CommonRun&)>& visit);
std::vector<CommonRun> common_runs(const ShardSpec& a, const ShardSpec& b);
// Whether positions [begin, end) of `a` have an element in common with `b`.
bool any_in_common(const ShardSpec& a, int64_t begin, int64_t end, const ShardSpec& b);

// An element that no part holds, or that several parts hold.
struct CoverFault {
  int64_t element = 0;
  std::vector<size_t> holders = {};  // indices of the parts that hold it
};
// Returns the first such element, or nothing if the parts cover the tensor exactly once. The time
// depends on the number of parts, not on elements or pairs of parts.
std::optional<CoverFault> find_cover_fault(const Shape& global_shape,
                                           std::span<const ShardSpec> parts);

// The index of an element, as text: "[1, 7]".
std::string index_text(const Shape& shape, int64_t element);

}  // namespace lockstep
