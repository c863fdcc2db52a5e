#include "core/tensor/shard_spec.h"

#include <algorithm>
#include <ostream>

namespace lockstep {
namespace {

// Returns the first dimension of a box with a length above 1.
int first_long(const Shape& lengths) {
  int dim = 0;
  while (dim < lengths.size() && lengths[dim] == 1) ++dim;
  return dim;
}

bool lies_back_to_back(const Shape& shape, const Shape& lengths) {
  for (int dim = first_long(lengths) + 1; dim < shape.size(); ++dim)
    if (lengths[dim] != shape[dim]) return false;
  return true;
}

// A part as runs of equal length, in ascending order: one run, or the runs along the innermost
// dimension in which the box is not whole.
class Runs {
 public:
  explicit Runs(const ShardSpec& part)
      : first_(part.offset()), length_(part.length()), count_(part.length() > 0 ? 1 : 0) {
    if (!part.is_box()) return;
    const Shape strides = part.global_shape().contiguous_strides();
    outer_ = strides.size() - 1;
    while (part.lengths()[outer_] == part.global_shape()[outer_]) --outer_;
    length_ = part.lengths()[outer_] * strides[outer_];
    for (int dim = 0; dim < outer_; ++dim) {
      strides_.push_back(strides[dim]);
      lengths_.push_back(part.lengths()[dim]);
      count_ *= part.lengths()[dim];
    }
  }

  int64_t count() const { return count_; }
  int64_t length() const { return length_; }
  int64_t begin(int64_t run) const {
    int64_t element = first_;
    for (int dim = outer_; dim-- > 0; run /= lengths_[dim])
      element += run % lengths_[dim] * strides_[dim];
    return element;
  }
  int64_t end(int64_t run) const { return begin(run) + length_; }
  int64_t element(int64_t position) const { return begin(position / length_) + position % length_; }

  // Returns the first run, numbered `from` or higher, that has an element at `element` or after it,
  // or count() if there is none.
  int64_t first_reaching(int64_t element, int64_t from = 0) const {
    int64_t step = 1;
    while (from + step <= count_ && end(from + step - 1) <= element) {
      from += step;
      step *= 2;
    }
    int64_t last = std::min(from + step - 1, count_);
    while (from < last) {
      const int64_t middle = from + (last - from) / 2;
      if (end(middle) <= element)
        from = middle + 1;
      else
        last = middle;
    }
    return from;
  }

 private:
  int64_t first_, length_, count_;
  int outer_ = 0;  // number of dimensions outside of a run
  Shape strides_, lengths_;
};

void check_same_tensor(const ShardSpec& a, const ShardSpec& b) {
  check(a.global_shape() == b.global_shape(), "[shard] ", a, " and ", b,
        " are not parts of one tensor");
}

// Like for_each_common_run(), but ends when visit(run) returns false.
template <typename Visit>
void walk_common_runs(const ShardSpec& a, int64_t begin, int64_t end, const ShardSpec& b,
                      const Visit& visit) {
  check_same_tensor(a, b);
  check(begin >= 0 && begin <= end && end <= a.length(), "[shard] positions ", begin, " to ", end,
        " do not lie in ", a);
  if (begin == end || b.length() == 0) return;
  const Runs x(a), y(b);
  const int64_t first = x.element(begin), last = x.element(end - 1);
  int64_t i = begin / x.length(), j = y.first_reaching(first);
  while (i < x.count() && j < y.count()) {
    const int64_t x_begin = x.begin(i), y_begin = y.begin(j);
    const int64_t from = std::max({x_begin, y_begin, first});
    const int64_t until = std::min({x_begin + x.length(), y_begin + y.length(), last + 1});
    if (from > last) return;
    if (from < until) {
      const CommonRun run{.element = from,
                          .in_a = i * x.length() + (from - x_begin),
                          .in_b = j * y.length() + (from - y_begin),
                          .length = until - from};
      if (!visit(run) || until > last) return;
      i += until == x_begin + x.length();
      j += until == y_begin + y.length();
    } else if (x_begin < y_begin) {
      i = x.first_reaching(y_begin, i);
    } else {
      j = y.first_reaching(x_begin, j);
    }
  }
}

// ---- covering ----

struct Block {
  Shape offsets, lengths;
};

// Adds the elements [begin, end) of the flattened dimensions from `dim` on as blocks: in each
// dimension at most one before and one after the middle. `block` holds the dimensions before `dim`.
void add_blocks(const Shape& shape, const Shape& strides, int64_t begin, int64_t end,
                const Block& block, std::vector<Block>& blocks) {
  if (begin == end) return;
  const int dim = block.offsets.size();
  if (dim == shape.size()) return blocks.push_back(block);
  const auto with = [&](int64_t offset, int64_t length) {
    Block longer = block;
    longer.offsets.push_back(offset);
    longer.lengths.push_back(length);
    return longer;
  };
  const int64_t stride = strides[dim], first = begin / stride, last = (end - 1) / stride;
  const auto inside_of = [&](int64_t index, int64_t from, int64_t until) {
    add_blocks(shape, strides, from - index * stride, until - index * stride, with(index, 1),
               blocks);
  };
  if (first == last) return inside_of(first, begin, end);
  const int64_t whole_begin = (begin + stride - 1) / stride, whole_end = end / stride;
  if (first < whole_begin) inside_of(first, begin, whole_begin * stride);
  if (whole_begin < whole_end) {
    Block middle = with(whole_begin, whole_end - whole_begin);
    for (int d = dim + 1; d < shape.size(); ++d) {
      middle.offsets.push_back(0);
      middle.lengths.push_back(shape[d]);
    }
    blocks.push_back(middle);
  }
  if (whole_end == last) inside_of(last, whole_end * stride, end);
}

// How often blocks hold each point, minus one: zero everywhere if they cover the tensor exactly
// once. This class looks at the differences of these counts: along each dimension, a block adds one
// where it begins and subtracts one after its end. The differences are zero everywhere if and only
// if the counts are. The first nonzero difference in row-major order is at the first wrong count,
// since no earlier point contributes to its count.
class Counts {
 public:
  Counts(const Shape& shape, std::vector<Block> blocks)
      : shape_(shape), blocks_(std::move(blocks)) {}

  // Returns the first point with a wrong count.
  std::optional<Shape> first_wrong() {
    std::vector<Signed> all;
    for (size_t i = 0; i < blocks_.size(); ++i) all.push_back({i, 1});
    blocks_.push_back({Shape(), shape_});
    for (int d = 0; d < shape_.size(); ++d) blocks_.back().offsets.push_back(0);
    all.push_back({blocks_.size() - 1, -1});
    return descend(std::move(all)) ? std::optional(at_) : std::nullopt;
  }

 private:
  struct Signed {
    size_t block;
    int64_t sign;
    int64_t index = 0;  // the index at which it counts
  };

  // at_ holds the indices of the outer dimensions. On true, it is the wrong point.
  bool descend(std::vector<Signed> counts) {
    const int dim = at_.size();
    if (dim == shape_.size()) {
      int64_t sum = 0;
      for (const Signed& each : counts) sum += each.sign;
      return sum != 0;
    }
    const auto begin = [&](const Signed& each) { return blocks_[each.block].offsets[dim]; };
    const auto end = [&](const Signed& each) {
      return begin(each) + blocks_[each.block].lengths[dim];
    };
    const bool alike = std::all_of(counts.begin(), counts.end(), [&](const Signed& each) {
      return begin(each) == begin(counts[0]) && end(each) == end(counts[0]);
    });
    const size_t starts = counts.size();
    for (size_t i = 0; i < starts; ++i) {
      counts[i].index = begin(counts[i]);
      // If all end at the same index, the differences there just repeat those at the begin.
      if (!alike) counts.push_back({counts[i].block, -counts[i].sign, end(counts[i])});
    }
    std::sort(counts.begin(), counts.end(),
              [](const Signed& a, const Signed& b) { return a.index < b.index; });
    for (auto group = counts.begin(); group != counts.end();) {
      const auto behind = std::find_if(
          group, counts.end(), [&](const Signed& each) { return each.index != group->index; });
      at_.push_back(group->index);
      if (descend({group, behind})) return true;
      at_.erase(dim);
      group = behind;
    }
    return false;
  }

  const Shape& shape_;
  std::vector<Block> blocks_;
  Shape at_;
};

}  // namespace

ShardSpec::ShardSpec(const Shape& global_shape, int64_t offset, int64_t length)
    : global_shape_(global_shape), offset_(length == 0 ? 0 : offset), length_(length) {
  const int64_t elements = global_shape.numel();
  check(offset >= 0 && length >= 0 && length <= elements && offset <= elements - length, "[shard] ",
        length, " elements from element ", offset, " on do not lie in ", global_shape);
}

ShardSpec ShardSpec::box(const Shape& global_shape, const Shape& offsets, const Shape& lengths) {
  const int dims = global_shape.size();
  check(offsets.size() == dims && lengths.size() == dims, "[shard] a box with offsets ", offsets,
        " and lengths ", lengths, " has not one of each for each dimension of ", global_shape);
  const Shape strides = global_shape.contiguous_strides();
  int64_t first = 0;
  for (int dim = 0; dim < dims; ++dim) {
    check(offsets[dim] >= 0 && lengths[dim] >= 0 && lengths[dim] <= global_shape[dim] &&
              offsets[dim] <= global_shape[dim] - lengths[dim],
          "[shard] a box with offsets ", offsets, " and lengths ", lengths, " does not lie in ",
          global_shape, ": look at dimension ", dim);
    first += offsets[dim] * strides[dim];
  }
  const int64_t length = lengths.numel();
  ShardSpec part(global_shape, length == 0 ? 0 : first, length);
  if (length > 0 && !lies_back_to_back(global_shape, lengths))
    part.box_ = std::make_shared<const Box>(Box{offsets, lengths});
  return part;
}

const ShardSpec::Box& ShardSpec::the_box() const {
  check(is_box(), "[shard] ", *this, " is a run of elements, and no box");
  return *box_;
}

Shape ShardSpec::shape() const {
  return is_box() ? lengths() : is_whole() ? global_shape_ : Shape{length_};
}

int64_t ShardSpec::end() const {
  if (!is_box()) return offset_ + length_;
  const Runs runs(*this);
  return runs.end(runs.count() - 1);
}

int64_t ShardSpec::positions_before(int64_t element) const {
  if (!is_box()) return std::clamp<int64_t>(element - offset_, 0, length_);
  const Runs runs(*this);
  const int64_t run = runs.first_reaching(element);
  const int64_t inside = run == runs.count() ? 0 : std::max<int64_t>(element - runs.begin(run), 0);
  return run * runs.length() + inside;
}

int64_t ShardSpec::position(int64_t element) const {
  const int64_t before = positions_before(element);
  if (before == length_ || element < offset_) return -1;
  const bool held = !is_box() || Runs(*this).element(before) == element;
  return held ? before : -1;
}

int64_t ShardSpec::cut_unit() const {
  return is_box() ? length_ / lengths()[first_long(lengths())] : 1;
}

ShardSpec ShardSpec::cut(int64_t begin, int64_t end) const {
  const int64_t unit = cut_unit();
  check(begin >= 0 && begin <= end && end <= length_ && begin % unit == 0 && end % unit == 0,
        "[shard] ", *this, " cannot be cut to positions ", begin, " to ", end,
        ": it can be at multiples of ", unit);
  if (!is_box()) return {global_shape_, offset_ + begin, end - begin};
  Shape offsets = box_->offsets, lengths = box_->lengths;
  const int dim = first_long(lengths);
  offsets[dim] += begin / unit;
  lengths[dim] = (end - begin) / unit;
  return box(global_shape_, offsets, lengths);
}

bool operator==(const ShardSpec& a, const ShardSpec& b) {
  if (a.offset_ != b.offset_ || a.length_ != b.length_ || a.is_box() != b.is_box() ||
      !(a.global_shape_ == b.global_shape_))
    return false;
  return !a.is_box() || (a.offsets() == b.offsets() && a.lengths() == b.lengths());
}

std::ostream& operator<<(std::ostream& out, const ShardSpec& part) {
  if (part.is_box()) {
    for (int dim = 0; dim < part.offsets().size(); ++dim)
      out << (dim == 0 ? "[" : ", ") << part.offsets()[dim] << ':'
          << part.offsets()[dim] + part.lengths()[dim];
    out << ']';
  } else {
    out << "elements " << part.offset() << " to " << part.offset() + part.length();
  }
  return out << " of " << part.global_shape();
}

bool overlap(const ShardSpec& a, const ShardSpec& b) {
  check_same_tensor(a, b);
  if (!a.is_box() || !b.is_box()) return any_in_common(a, 0, a.length(), b);
  for (int dim = 0; dim < a.global_shape().size(); ++dim)
    if (a.offsets()[dim] >= b.offsets()[dim] + b.lengths()[dim] ||
        b.offsets()[dim] >= a.offsets()[dim] + a.lengths()[dim])
      return false;
  return true;
}

void for_each_common_run(const ShardSpec& a, int64_t begin, int64_t end, const ShardSpec& b,
                         const std::function<void(const CommonRun&)>& visit) {
  if (a.is_box() && b.is_box() && !overlap(a, b)) return;  // or they would be compared run by run
  walk_common_runs(a, begin, end, b, [&](const CommonRun& run) {
    visit(run);
    return true;
  });
}

std::vector<CommonRun> common_runs(const ShardSpec& a, const ShardSpec& b) {
  std::vector<CommonRun> runs;
  for_each_common_run(a, 0, a.length(), b, [&](const CommonRun& run) { runs.push_back(run); });
  return runs;
}

bool any_in_common(const ShardSpec& a, int64_t begin, int64_t end, const ShardSpec& b) {
  if (a.is_box() && b.is_box() && !overlap(a, b)) return false;
  bool found = false;
  walk_common_runs(a, begin, end, b, [&](const CommonRun&) {
    found = true;
    return false;
  });
  return found;
}

std::optional<CoverFault> find_cover_fault(const Shape& global_shape,
                                           std::span<const ShardSpec> parts) {
  const bool boxes =
      std::any_of(parts.begin(), parts.end(), [](const ShardSpec& part) { return part.is_box(); });
  const int64_t elements = global_shape.numel();
  if (elements == 0) return std::nullopt;
  // Without boxes, one flat dimension is enough.
  const Shape shape = boxes ? global_shape : Shape{elements};
  const Shape strides = shape.contiguous_strides();
  std::vector<Block> blocks;
  for (const ShardSpec& part : parts) {
    check(part.global_shape() == global_shape, "[shard] ", part, " is not part of ", global_shape);
    if (part.is_box())
      blocks.push_back({part.offsets(), part.lengths()});
    else
      add_blocks(shape, strides, part.offset(), part.offset() + part.length(), {}, blocks);
  }
  const std::optional<Shape> wrong = Counts(shape, std::move(blocks)).first_wrong();
  if (!wrong) return std::nullopt;
  CoverFault fault;
  for (int dim = 0; dim < shape.size(); ++dim) fault.element += (*wrong)[dim] * strides[dim];
  for (size_t i = 0; i < parts.size(); ++i)
    if (parts[i].position(fault.element) >= 0) fault.holders.push_back(i);
  return fault;
}

std::string index_text(const Shape& shape, int64_t element) {
  Shape index = shape;
  for (int dim = shape.size(); dim-- > 0; element /= shape[dim]) index[dim] = element % shape[dim];
  return str(index);
}

}  // namespace lockstep
