// Who writes what: every element once, ranks and files of about equal bytes.
#include "checkpoint/save/plan.h"

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

// Some tensors, as all ranks hold them whole, or each its even share.
std::vector<std::vector<Part>> random_parts(std::mt19937& random, int64_t ranks, bool shared) {
  const std::vector<DType> dtypes = {DType::f32, DType::bf16, DType::i64, DType::u8};
  std::vector<std::vector<Part>> held(static_cast<size_t>(ranks));
  const int64_t tensors = random() % 12;
  for (int64_t i = 0; i < tensors; ++i) {
    const int64_t elements = random() % 2 == 0 ? random() % 1000 : random() % (8 << 20);
    const DType dtype = dtypes[random() % dtypes.size()];
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t begin = shared ? elements * rank / ranks : 0,
                    end = shared ? elements * (rank + 1) / ranks : elements;
      held[static_cast<size_t>(rank)].push_back(
          {str("t", i), dtype, {Shape{elements}, begin, end - begin}});
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
  int64_t halved = 0;
  for (int i = 0; i < 300; ++i) {
    const int64_t ranks = 1 + random() % 5;
    const auto held = random_parts(random, ranks, random() % 2 == 0);
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
                  2 * kChunkBytes);
      }
    }
  }
  EXPECT_GT(halved, 100);
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
