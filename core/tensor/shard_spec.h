// ShardSpec: which part of a global tensor a rank holds. What shards writes it, what saves reads
// it; they never meet otherwise.
//
// A part is a run of the flattened tensor, which is what FSDP's slices are, or a box: a range in
// every dimension, which is what the columns of a matrix are. A box whose elements lie back to back
// in the flattened tensor is the same part as that run, and is stored as the run. So two equal
// parts always compare equal, and is_box() tells the parts that no run can describe.
//
// A part's values lie in a tensor of their own, row-major, without holes. An "element" is an index
// into the flattened global tensor, and a "position" is one into the part's own values.
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

// Immutable but for assignment.
class ShardSpec {
 public:
  ShardSpec() = default;  // nothing, of a scalar
  // `length` elements from element `offset` on. UsageError unless they lie in the tensor.
  ShardSpec(const Shape& global_shape, int64_t offset, int64_t length);
  static ShardSpec whole(const Shape& shape) { return {shape, 0, shape.numel()}; }
  // In each dimension `lengths` indices from `offsets` on. UsageError unless both have a number for
  // each dimension and the box lies in the tensor.
  static ShardSpec box(const Shape& global_shape, const Shape& offsets, const Shape& lengths);

  const Shape& global_shape() const { return global_shape_; }
  // The first element. 0 for a part without elements.
  int64_t offset() const { return offset_; }
  // How many elements the part has.
  int64_t length() const { return length_; }
  // One behind the last element; offset() for a part without elements.
  int64_t end() const;
  bool is_whole() const { return offset_ == 0 && length_ == global_shape_.numel(); }
  // Whether the elements do not lie back to back.
  bool is_box() const { return box_ != nullptr; }
  // Of a box, by dimension. UsageError for a run.
  const Shape& offsets() const { return the_box().offsets; }
  const Shape& lengths() const { return the_box().lengths; }
  // The natural shape of the values: the tensor's own for the whole, the box's, [length] for a run.
  Shape shape() const;

  // Where the part has an element; -1 where it does not.
  int64_t position(int64_t element) const;
  // How many of the part's elements come before this one, which may be any.
  int64_t positions_before(int64_t element) const;
  // A part may be cut at the multiples of so many positions, and both sides are parts: anywhere for
  // a run, and between the slices along the first dimension of more than one for a box.
  int64_t cut_unit() const;
  // The positions [begin, end), both multiples of cut_unit() or the length.
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
  std::shared_ptr<const Box> box_;  // null: a run
};

// The functions below take parts of one tensor, and throw UsageError where the shapes differ.

// Whether two parts have an element in common.
bool overlap(const ShardSpec& a, const ShardSpec& b);

// Elements that lie back to back in the global tensor and in two parts of it.
struct CommonRun {
  int64_t element = 0;  // the first one
  int64_t in_a = 0;     // its position in each part
  int64_t in_b = 0;
  int64_t length = 0;  // in elements
};
// Calls visit(run) for the runs that two parts have in common, in ascending order.
// Only positions [begin, end) of `a` count. Takes time for the runs that there are, not for the
// elements.
void for_each_common_run(const ShardSpec& a, int64_t begin, int64_t end, const ShardSpec& b,
                         const std::function<void(const CommonRun&)>& visit);
std::vector<CommonRun> common_runs(const ShardSpec& a, const ShardSpec& b);
// Whether positions [begin, end) of `a` have an element in common with `b`.
bool any_in_common(const ShardSpec& a, int64_t begin, int64_t end, const ShardSpec& b);

// An element that not exactly one of some parts holds.
struct CoverFault {
  int64_t element = 0;
  std::vector<size_t> holders = {};  // indices of the parts that hold it
};
// The first such element; nothing where the parts cover the tensor exactly once. Takes time for the
// parts that there are, not for the elements nor for pairs of parts.
std::optional<CoverFault> find_cover_fault(const Shape& global_shape,
                                           std::span<const ShardSpec> parts);

// The index of an element, as text: "[1, 7]".
std::string index_text(const Shape& shape, int64_t element);

}  // namespace lockstep
