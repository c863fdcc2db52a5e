#include "comm/device_mesh.h"

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "comm/store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

// body(world) on `ranks` threads.
void on_ranks(int ranks, const std::function<void(std::shared_ptr<ProcessGroup>)>& body) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(ranks, [&](int rank) { body(create("local", store, rank, ranks)); });
}

// The world ranks of a group, in its order.
std::vector<int64_t> members(ProcessGroup& group, int world_rank) {
  const Tensor all = Tensor::empty({group.size()}, DType::i64);
  group.all_gather(all, Tensor::full({1}, world_rank, DType::i64)).wait();
  return all.to_vector<int64_t>();
}

TEST(DeviceMesh, EveryLineIsAGroupInItsOrder) {
  for (const auto& [rows, columns] :
       std::vector<std::pair<int, int>>{{1, 1}, {1, 3}, {3, 1}, {2, 2}, {2, 3}, {4, 2}, {2, 4}}) {
    on_ranks(rows * columns, [rows = rows, columns = columns](std::shared_ptr<ProcessGroup> world) {
      const DeviceMesh mesh(world, {{"replicate", rows}, {"shard", columns}});
      const int row = world->rank() / columns, column = world->rank() % columns;
      EXPECT_EQ(mesh.coordinate("replicate"), row);
      EXPECT_EQ(mesh.coordinate("shard"), column);
      EXPECT_EQ(mesh.group("replicate")->rank(), row);
      EXPECT_EQ(mesh.group("shard")->rank(), column);
      std::vector<int64_t> neighbours, twins;
      for (int c = 0; c < columns; ++c) neighbours.push_back(row * columns + c);
      for (int r = 0; r < rows; ++r) twins.push_back(r * columns + column);
      EXPECT_EQ(members(*mesh.group("shard"), world->rank()), neighbours);
      EXPECT_EQ(members(*mesh.group("replicate"), world->rank()), twins);
    });
  }
}

TEST(DeviceMesh, ThreeDimensionsAndAnOpenSize) {
  on_ranks(8, [](std::shared_ptr<ProcessGroup> world) {
    const DeviceMesh mesh(world, {{"a", 2}, {"b", -1}, {"c", 2}});
    EXPECT_EQ(mesh.describe(), "a 2 x b 2 x c 2");
    const int64_t first = world->rank() & ~2;
    EXPECT_EQ(members(*mesh.group("b"), world->rank()), (std::vector<int64_t>{first, first + 2}));
  });
}

TEST(DeviceMesh, OneDimensionIsTheWorldItself) {
  for (int ranks : {1, 2, 5})
    on_ranks(ranks, [ranks](std::shared_ptr<ProcessGroup> world) {
      const DeviceMesh mesh(world, {{"shard", -1}});
      EXPECT_EQ(mesh.size("shard"), ranks);
      EXPECT_EQ(mesh.group("shard"), world);
    });
}

TEST(DeviceMesh, SaysWhichDimensionsDoNotFit) {
  on_ranks(4, [](std::shared_ptr<ProcessGroup> world) {
    const auto refused = [&](std::vector<MeshDimension> dimensions, const std::string& text) {
      EXPECT_THAT([&] { DeviceMesh(world, dimensions); },
                  ThrowsMessage<UsageError>(HasSubstr(text)));
    };
    refused({}, "at least one dimension");
    refused({{"replicate", 2}, {"shard", 3}},
            "replicate 2 x shard 3 has 6 places, but there are 4 ranks");
    refused({{"replicate", 3}, {"shard", -1}},
            "4 ranks do not divide by the 3 of replicate 3 x shard -1, so 'shard' has no size");
    refused({{"a", -1}, {"b", -1}}, "both 'a' and 'b' are");
    refused({{"a", 2}, {"a", 2}}, "'a' appears twice");
    refused({{"a", 0}, {"b", 4}}, "at least 1 for 'a'");
    refused({{"", 4}}, "has no name");
    const DeviceMesh mesh(world, {{"replicate", 2}, {"shard", 2}});
    EXPECT_THAT(
        [&] { mesh.group("sahrd"); },
        ThrowsMessage<UsageError>(HasSubstr("no dimension 'sahrd' in replicate 2 x shard 2")));
    EXPECT_FALSE(mesh.has("expert"));
  });
}

TEST(DeviceMesh, RanksThatAskForDifferentMeshesAllLearnIt) {
  on_ranks(4, [](std::shared_ptr<ProcessGroup> world) {
    const int rows = world->rank() == 3 ? 4 : 2;
    EXPECT_THAT(
        [&] {
          DeviceMesh(world, {{"replicate", rows}, {"shard", -1}});
        },
        ThrowsMessage<UsageError>(HasSubstr("ranks 0 and 3 ask for different meshes: replicate 2 x "
                                            "shard 2 and replicate 4 x shard 1")));
  });
}

}  // namespace
}  // namespace lockstep::comm
