// Parts of tensors: runs and boxes, against a reference that looks at every element.
#include "core/tensor/shard_spec.h"

#include <algorithm>
#include <random>
#include <sstream>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/support/error_of.h"

namespace lockstep {
namespace {

using test::error_of;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A part as the list of its elements, in the order of its positions.
struct Listed {
  ShardSpec part;
  std::vector<int64_t> elements;
};

Listed run(const Shape& shape, int64_t offset, int64_t length) {
  Listed listed{{shape, offset, length}, {}};
  for (int64_t i = 0; i < length; ++i) listed.elements.push_back(offset + i);
  return listed;
}

Listed box(const Shape& shape, const Shape& offsets, const Shape& lengths) {
  Listed listed{ShardSpec::box(shape, offsets, lengths), {}};
  for (int64_t element = 0; element < shape.numel(); ++element) {
    bool inside = true;
    int64_t rest = element;
    for (int dim = shape.size(); dim-- > 0; rest /= shape[dim]) {
      const int64_t index = rest % shape[dim];
      inside = inside && index >= offsets[dim] && index < offsets[dim] + lengths[dim];
    }
    if (inside) listed.elements.push_back(element);
  }
  return listed;
}

class ShardSpecs : public ::testing::Test {
 protected:
  int64_t number(int64_t below) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(below));
  }

  // Up to eight dimensions, some of one and rarely of none.
  Shape shape() {
    Shape result;
    for (int64_t dims = number(9), elements = 1; dims > 0; --dims) {
      const int64_t dim = number(40) == 0 ? 0 : 1 + number(elements < 200 ? 4 : 1);
      result.push_back(dim);
      elements *= std::max<int64_t>(dim, 1);
    }
    return result;
  }

  Listed part(const Shape& shape) {
    const int64_t elements = shape.numel();
    if (number(3) == 0) {
      const int64_t offset = number(elements + 1);
      return run(shape, offset, number(elements - offset + 1));
    }
    Shape offsets = shape, lengths = shape;
    for (int dim = 0; dim < shape.size(); ++dim) {
      const bool whole = number(3) == 0 || shape[dim] == 0;
      offsets[dim] = whole ? 0 : number(shape[dim]);
      lengths[dim] =
          whole ? shape[dim] : (number(20) == 0 ? 0 : 1 + number(shape[dim] - offsets[dim]));
    }
    return box(shape, offsets, lengths);
  }

  // A tensor cut into parts at random, at places where parts may be cut.
  std::vector<ShardSpec> cut_up(const Shape& shape) {
    std::vector<ShardSpec> parts = {grid_cell(shape)};
    if (parts[0].is_whole()) {
      for (int64_t cuts = number(4); cuts > 0; --cuts) cut_one(parts);
      return parts;
    }
    return grid(shape);
  }

 private:
  ShardSpec grid_cell(const Shape& shape) {
    return number(2) == 0 ? ShardSpec::whole(shape) : ShardSpec(shape, 0, 0);
  }

  std::vector<ShardSpec> grid(const Shape& shape) {
    std::vector<std::pair<Shape, Shape>> boxes = {{Shape(), Shape()}};
    for (int dim = 0; dim < shape.size(); ++dim) {
      std::vector<std::pair<Shape, Shape>> longer;
      for (auto& [offsets, lengths] : boxes) {
        const int64_t at = shape[dim] > 1 && number(2) == 0 ? 1 + number(shape[dim] - 1) : 0;
        for (const auto& [begin, end] : {std::pair(int64_t{0}, at), std::pair(at, shape[dim])}) {
          if (begin == end && at == 0 && shape[dim] != 0) continue;
          auto& [o, l] = longer.emplace_back(offsets, lengths);
          o.push_back(begin);
          l.push_back(end - begin);
        }
      }
      boxes = std::move(longer);
    }
    std::vector<ShardSpec> parts;
    for (const auto& [offsets, lengths] : boxes)
      parts.push_back(ShardSpec::box(shape, offsets, lengths));
    for (int64_t cuts = number(3); cuts > 0; --cuts) cut_one(parts);
    std::shuffle(parts.begin(), parts.end(), random_);
    return parts;
  }

  void cut_one(std::vector<ShardSpec>& parts) {
    const auto at = static_cast<size_t>(number(std::ssize(parts)));
    const ShardSpec all = parts[at];
    const int64_t unit = all.cut_unit(), units = unit == 0 ? 0 : all.length() / unit;
    const int64_t middle = number(units + 1) * unit;
    parts[at] = all.cut(0, middle);
    parts.push_back(all.cut(middle, all.length()));
  }

  std::mt19937_64 random_{7};
};

bool back_to_back(const std::vector<int64_t>& elements) {
  return elements.empty() || elements.back() - elements.front() + 1 == std::ssize(elements);
}

TEST_F(ShardSpecs, SayWhichElementsTheyHoldAndWhere) {
  int boxes = 0;
  for (int i = 0; i < 3000; ++i) {
    const Shape shape = this->shape();
    const auto& [part, elements] = this->part(shape);
    SCOPED_TRACE(str("case ", i, ": ", part));
    ASSERT_EQ(part.length(), std::ssize(elements));
    ASSERT_EQ(part.shape().numel(), part.length());
    ASSERT_EQ(part.is_whole(), part.length() == shape.numel());
    ASSERT_EQ(part.is_box(), !back_to_back(elements));
    boxes += part.is_box();
    ASSERT_EQ(part.offset(), elements.empty() ? 0 : elements.front());
    ASSERT_EQ(part.end(), elements.empty() ? 0 : elements.back() + 1);
    for (int64_t element = -2; element < shape.numel() + 2; ++element) {
      const auto at = std::lower_bound(elements.begin(), elements.end(), element);
      ASSERT_EQ(part.positions_before(element), at - elements.begin()) << element;
      const bool held = at != elements.end() && *at == element;
      ASSERT_EQ(part.position(element), held ? at - elements.begin() : -1) << element;
    }
    if (!part.is_box()) {
      ASSERT_EQ(part, ShardSpec(shape, part.offset(), part.length())) << "one form for equal parts";
    }
  }
  EXPECT_GT(boxes, 500);
}

TEST_F(ShardSpecs, CommonRunsAreAllThatIsInBothAndAsLongAsTheyCanBe) {
  int found = 0;
  for (int i = 0; i < 5000; ++i) {
    const Shape shape = this->shape();
    const Listed a = this->part(shape), b = this->part(shape);
    const int64_t begin = number(a.part.length() + 1),
                  end = begin + number(a.part.length() - begin + 1);
    SCOPED_TRACE(
        str("case ", i, ": positions ", begin, " to ", end, " of ", a.part, " and ", b.part));
    std::vector<CommonRun> expected;
    for (int64_t position = begin; position < end; ++position) {
      const int64_t element = a.elements[static_cast<size_t>(position)];
      const auto at = std::lower_bound(b.elements.begin(), b.elements.end(), element);
      if (at == b.elements.end() || *at != element) continue;
      const int64_t in_b = at - b.elements.begin();
      if (!expected.empty() && expected.back().element + expected.back().length == element &&
          expected.back().in_b + expected.back().length == in_b)
        ++expected.back().length;
      else
        expected.push_back({element, position, in_b, 1});
    }
    std::vector<CommonRun> runs;
    for_each_common_run(a.part, begin, end, b.part, [&](const CommonRun& r) { runs.push_back(r); });
    ASSERT_EQ(runs.size(), expected.size());
    for (size_t r = 0; r < runs.size(); ++r) {
      ASSERT_EQ(runs[r].element, expected[r].element);
      ASSERT_EQ(runs[r].in_a, expected[r].in_a);
      ASSERT_EQ(runs[r].in_b, expected[r].in_b);
      ASSERT_EQ(runs[r].length, expected[r].length);
    }
    found += !runs.empty();
    ASSERT_EQ(any_in_common(a.part, begin, end, b.part), !runs.empty());
    ASSERT_EQ(overlap(a.part, b.part), !common_runs(a.part, b.part).empty());
    ASSERT_EQ(overlap(a.part, b.part), overlap(b.part, a.part));
    const bool same = a.elements == b.elements;
    ASSERT_EQ(a.part == b.part, same) << "equal parts, however they are given, compare equal";
  }
  EXPECT_GT(found, 500);
}

TEST_F(ShardSpecs, CutsAreTheSameElementsInTheSameOrder) {
  for (int i = 0; i < 3000; ++i) {
    const Shape shape = this->shape();
    const auto& [part, elements] = this->part(shape);
    SCOPED_TRACE(str("case ", i, ": ", part));
    const int64_t unit = part.cut_unit();
    ASSERT_GT(unit, 0);
    ASSERT_EQ(part.length() % unit, 0);
    const int64_t from = number(part.length() / unit + 1) * unit,
                  until = from + number((part.length() - from) / unit + 1) * unit;
    const ShardSpec piece = part.cut(from, until);
    ASSERT_EQ(piece.length(), until - from);
    for (int64_t position = from; position < until; ++position)
      ASSERT_EQ(piece.position(elements[static_cast<size_t>(position)]), position - from);
  }
}

TEST_F(ShardSpecs, CoverATensorExactlyOnceOrTheFirstElementThatTheyDoNotIsNamed) {
  int good = 0, gaps = 0, overlaps = 0;
  for (int i = 0; i < 4000; ++i) {
    const Shape shape = this->shape();
    std::vector<ShardSpec> parts = cut_up(shape);
    const int64_t change = number(4);
    if (change == 1) parts.erase(parts.begin() + number(std::ssize(parts)));
    if (change == 2) parts.push_back(part(shape).part);
    if (change == 3) parts[static_cast<size_t>(number(std::ssize(parts)))] = part(shape).part;
    std::ostringstream all;
    for (const ShardSpec& each : parts) all << each << "; ";
    SCOPED_TRACE(str("case ", i, ": ", all.str()));
    const auto fault = find_cover_fault(shape, parts);
    for (int64_t element = 0; element < shape.numel(); ++element) {
      std::vector<size_t> holders;
      for (size_t p = 0; p < parts.size(); ++p)
        if (parts[p].position(element) >= 0) holders.push_back(p);
      if (holders.size() == 1) continue;
      ASSERT_TRUE(fault);
      ASSERT_EQ(fault->element, element);
      ASSERT_EQ(fault->holders, holders);
      (holders.empty() ? gaps : overlaps) += 1;
      break;
    }
    if (!fault) ++good;
    if (change == 0) {
      ASSERT_FALSE(fault);
    }
  }
  EXPECT_GT(good, 800);
  EXPECT_GT(gaps, 800);
  EXPECT_GT(overlaps, 800);
}

// Runs and boxes cost what they are, not what the tensor is.
TEST(ShardSpec, TensorsMayBeLarge) {
  const Shape shape = {1 << 15, 1 << 15, 1 << 15};
  std::vector<ShardSpec> columns;
  for (int64_t i = 0; i < 4096; ++i)
    columns.push_back(ShardSpec::box(shape, {0, 8 * i, 0}, {1 << 15, 8, 1 << 15}));
  EXPECT_FALSE(find_cover_fault(shape, columns));
  columns[17] = ShardSpec::box(shape, {0, 8 * 17, 0}, {1 << 15, 8, (1 << 15) - 1});
  const auto fault = find_cover_fault(shape, columns);
  ASSERT_TRUE(fault);
  EXPECT_EQ(index_text(shape, fault->element), "[0, 136, 32767]");
  EXPECT_THAT(fault->holders, IsEmpty());
  const auto common = common_runs(columns[3], ShardSpec(shape, shape.numel() - (9 << 15), 9 << 15));
  EXPECT_THAT(common, IsEmpty());
  EXPECT_EQ(common_runs(columns[4095], ShardSpec(shape, shape.numel() - 10, 10)).size(), 1u);
}

TEST(ShardSpec, ABoxThatLiesBackToBackIsARun) {
  const ShardSpec rows = ShardSpec::box({6, 4}, {2, 0}, {3, 4});
  EXPECT_FALSE(rows.is_box());
  EXPECT_EQ(rows, ShardSpec({6, 4}, 8, 12));
  EXPECT_EQ(ShardSpec::box({6, 4}, {2, 1}, {1, 2}), ShardSpec({6, 4}, 9, 2));
  EXPECT_EQ(ShardSpec::box({}, {}, {}), ShardSpec::whole({}));
  EXPECT_EQ(ShardSpec::box({6, 4}, {6, 1}, {0, 2}), ShardSpec({6, 4}, 24, 0))
      << "nothing is nothing";
  EXPECT_EQ(ShardSpec::whole({0, 3}).length(), 0);
  EXPECT_TRUE(ShardSpec::whole({0, 3}).is_whole());
}

TEST(ShardSpec, ShapesAndTexts) {
  const ShardSpec columns = ShardSpec::box({6, 4}, {0, 1}, {6, 2});
  EXPECT_EQ(columns.shape(), (Shape{6, 2}));
  EXPECT_EQ(str(columns), "[0:6, 1:3] of [6, 4]");
  EXPECT_EQ(ShardSpec::whole({6, 4}).shape(), (Shape{6, 4}));
  EXPECT_EQ(ShardSpec({6, 4}, 8, 12).shape(), Shape{12});
  EXPECT_EQ(str(ShardSpec({6, 4}, 8, 12)), "elements 8 to 20 of [6, 4]");
  EXPECT_EQ(index_text({6, 4}, 9), "[2, 1]");
  EXPECT_EQ(index_text({}, 0), "[]");
  EXPECT_THAT(error_of([&] {
                ShardSpec::whole({6, 4}).offsets();
              }),
              HasSubstr("is a run of elements"));
}

TEST(ShardSpec, RefusesWhatDoesNotLieInTheTensor) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  for (const auto& [offset, length] :
       {std::pair<int64_t, int64_t>{5, 4}, {-1, 4}, {kMost, 4}, {0, 9}, {0, -1}, {4, kMost}})
    EXPECT_THAT(error_of([&] { ShardSpec({8}, offset, length); }),
                HasSubstr(str(length, " elements from element ", offset, " on do not lie in [8]")));
  const auto box_error = [](const Shape& offsets, const Shape& lengths) {
    return error_of([&] { ShardSpec::box({4, 6}, offsets, lengths); });
  };
  EXPECT_THAT(box_error({0}, {1, 1}),
              HasSubstr("has not one of each for each dimension of [4, 6]"));
  EXPECT_THAT(box_error({0, 0}, {1, 1, 1}), HasSubstr("has not one of each"));
  EXPECT_THAT(box_error({0, 5}, {4, 2}), HasSubstr("look at dimension 1"));
  EXPECT_THAT(box_error({-1, 0}, {1, 1}), HasSubstr("look at dimension 0"));
  EXPECT_THAT(box_error({0, 0}, {-1, 1}), HasSubstr("look at dimension 0"));
  EXPECT_THAT(box_error({kMost, 0}, {1, 1}), HasSubstr("look at dimension 0"));
  EXPECT_THAT(box_error({0, 1}, {1, kMost}), HasSubstr("look at dimension 1"));
  const ShardSpec columns = ShardSpec::box({4, 6}, {0, 1}, {4, 2});
  EXPECT_THAT(error_of([&] { columns.cut(0, 3); }), HasSubstr("it can be at multiples of 2"));
  EXPECT_THAT(error_of([&] {
                overlap(columns, ShardSpec::whole({6, 4}));
              }),
              HasSubstr("are not parts of one tensor"));
  EXPECT_THAT(error_of([&] {
                find_cover_fault({6, 4}, {&columns, 1});
              }),
              HasSubstr("is not part of [6, 4]"));
}

}  // namespace
}  // namespace lockstep
