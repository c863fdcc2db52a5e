// Who writes what: every element once, ranks and files of about equal bytes.
#include "checkpoint/save/plan.h"

#include <array>
#include <map>
#include <random>
#include <set>

#include "checkpoint/format/chunks.h"
#include "tests/checkpoint/helpers.h"

namespace lockstep::checkpoint {
namespace {

int64_t bytes_of_parts(const std::vector<Part>& parts) {
  int64_t bytes = 0;
  for (const Part& part : parts) bytes += part.shard.length() * size_of(part.dtype);
  return bytes;
}

// What the ranks hold: all of a tensor, each its even share, or columns, the same ones on two ranks
// where the number of ranks is even.
enum class Held : uint8_t { whole, shares, columns };

ShardSpec columns_of(int64_t elements, int64_t rank, int64_t ranks) {
  const int64_t parts = ranks % 2 == 0 ? ranks / 2 : ranks, part = rank % parts;
  const Shape shape = {elements / 60, 60};
  const int64_t begin = 60 * part / parts, end = 60 * (part + 1) / parts;
  return ShardSpec::box(shape, {0, begin}, {shape[0], end - begin});
}

std::vector<std::vector<Part>> random_parts(std::mt19937& random, int64_t ranks, Held how) {
  const std::vector<DType> dtypes = {DType::f32, DType::bf16, DType::i64, DType::u8};
  std::vector<std::vector<Part>> held(static_cast<size_t>(ranks));
  const int64_t tensors = random() % 12;
  for (int64_t i = 0; i < tensors; ++i) {
    const int64_t elements = random() % 2 == 0 ? random() % 1000 : random() % (8 << 20);
    const DType dtype = dtypes[random() % dtypes.size()];
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t begin = how == Held::shares ? elements * rank / ranks : 0,
                    end = how == Held::shares ? elements * (rank + 1) / ranks : elements;
      const ShardSpec part = how == Held::columns ? columns_of(elements, rank, ranks)
                                                  : ShardSpec(Shape{elements}, begin, end - begin);
      held[static_cast<size_t>(rank)].push_back({str("t", i), dtype, part});
    }
  }
  return held;
}

void expect_each_element_once(const Plan& plan, const std::vector<std::vector<Part>>& held) {
  std::map<std::string, std::vector<ShardSpec>> written;  // by name
  for (const PlannedFile& file : plan.files)
    for (const Part& part : file.parts) {
      written[part.name].push_back(part.shard);
      EXPECT_GT(part.shard.length(), 0);
    }
  for (const Part& part : held[0])
    EXPECT_FALSE(find_cover_fault(part.shard.global_shape(), written[part.name])) << part.name;
}

TEST(Plan, EveryElementIsInOneFileAndTwoFilesOfARankAreAboutEqual) {
  std::mt19937 random(1);
  constexpr int64_t kRowBytes = 2 * 60 * 8;  // a box is cut between rows, on both sides
  int64_t halved = 0, with_boxes = 0;
  for (int i = 0; i < 300; ++i) {
    const int64_t ranks = 1 + random() % 5;
    const Held how = std::array{Held::whole, Held::shares, Held::columns}[random() % 3];
    const auto held = random_parts(random, ranks, how);
    const int64_t two_files_above = random() % 2 == 0 ? 0 : 4 << 20;
    SCOPED_TRACE(str("case ", i, ": ", ranks, " ranks, ", held[0].size(), " tensors"));
    const Plan plan = make_plan(held, two_files_above);
    ASSERT_EQ(plan.ranks, ranks);
    expect_each_element_once(plan, held);
    int64_t last_rank = -1;
    for (const PlannedFile& file : plan.files) {
      std::set<std::string> names;
      for (const Part& part : file.parts)
        EXPECT_TRUE(names.insert(part.name).second) << part.name << " is in a file twice";
      EXPECT_GE(file.rank, last_rank);
      last_rank = file.rank;
    }
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const auto files = plan.files_of(rank);
      ASSERT_TRUE(files.size() == 1 || files.size() == 2);
      const int64_t bytes = bytes_of_parts(plan.parts_of(rank));
      EXPECT_TRUE(bytes > two_files_above || files.size() == 1);
      if (bytes > std::max(two_files_above, 4 * kChunkBytes)) {
        ASSERT_EQ(files.size(), 2u);
        ++halved;
        EXPECT_LE(std::abs(bytes_of_parts(plan.files[files[0]].parts) -
                           bytes_of_parts(plan.files[files[1]].parts)),
                  2 * kChunkBytes + kRowBytes);
      }
    }
    const bool boxes = std::any_of(plan.files.begin(), plan.files.end(), [](const auto& file) {
      return std::any_of(file.parts.begin(), file.parts.end(),
                         [](const Part& part) { return part.shard.is_box(); });
    });
    EXPECT_EQ(plan.version, boxes ? 4 : 3);
    with_boxes += boxes;
  }
  EXPECT_GT(halved, 100);
  EXPECT_GT(with_boxes, 40);
}

TEST(Plan, AMixOfPartsSurvivesItsText) {
  const Shape shape = {4, 6};
  const std::vector<Part> parts = {{"a name", DType::f32, ShardSpec::whole(shape)},
                                   {"box", DType::bf16, ShardSpec::box(shape, {1, 2}, {2, 3})},
                                   {":box 1", DType::u8, {shape, 5, 7}},
                                   {"7 8", DType::i64, ShardSpec::whole({})},
                                   {"none", DType::i32, {{0, 3}, 0, 0}}};
  const std::vector<Part> read = parse_parts(parts_text(parts));
  ASSERT_EQ(read.size(), parts.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    EXPECT_EQ(read[i].name, parts[i].name);
    EXPECT_EQ(read[i].dtype, parts[i].dtype);
    EXPECT_EQ(read[i].shard, parts[i].shard);
  }
  for (const char* bad : {"0 0 9 2 2 4 w", "0 -1 4 2 4 6 1 2 2 9 w", "0 -1 4 2 4 6 1 2 2", "0 0 4",
                          "0 0 1 9 1 1 1 1 1 1 1 1 1 w", ""})
    EXPECT_THAT(error_of([&] { parse_parts(str(bad, "\n")); }),
                ::testing::HasSubstr("another rank sent an unreadable part"))
        << bad;
}

TEST(Plan, CutsNoTensorWhereWholeOnesMakeEqualFiles) {
  std::vector<Part> parts;
  for (int64_t i = 0; i < 10; ++i)
    parts.push_back({str("t", i), DType::f32, ShardSpec::whole({1 << 20})});
  const Plan plan = make_plan({parts}, 0);
  ASSERT_EQ(plan.files.size(), 2u);
  for (const PlannedFile& file : plan.files) EXPECT_EQ(file.parts.size(), 5u);
}

TEST(Plan, CutsAtWholeChunks) {
  // Five chunks.
  const Plan plan = make_plan({{{"w", DType::bf16, ShardSpec::whole({5 << 19})}}}, 0);
  ASSERT_EQ(plan.files.size(), 2u);
  EXPECT_EQ(plan.files[0].parts[0].shard.length(), 3 << 19);
  EXPECT_EQ(plan.files[1].parts[0].shard.offset(), 3 << 19);
  EXPECT_EQ(plan.files[1].parts[0].shard.length(), 2 << 19);
}

}  // namespace
}  // namespace lockstep::checkpoint
