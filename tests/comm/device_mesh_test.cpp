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

std::vector<MeshDimension> four_dimensions() {
  return {{"replicate", 2}, {"shard", 2}, {"tensor", 1}, {"pipeline", 2}};
}

// The ranks whose coordinates are those of this one but for the dimensions of these sizes and
// strides.
std::vector<int64_t> ranks_with(int rank, const std::vector<std::pair<int, int>>& dimensions) {
  std::vector<int64_t> ranks = {rank};
  for (const auto& [size, stride] : dimensions) {
    std::vector<int64_t> more;
    for (const int64_t each : ranks)
      for (int i = 0; i < size; ++i)
        more.push_back(each - each / stride % size * stride + i * stride);
    ranks = std::move(more);
  }
  return ranks;
}

TEST(DeviceMesh, AnyDimensionsInOrderAreAMeshToo) {
  on_ranks(8, [](std::shared_ptr<ProcessGroup> world) {
    const int rank = world->rank();
    const DeviceMesh mesh(world, four_dimensions());
    const DeviceMesh both = mesh.submesh({"replicate", "pipeline"});
    EXPECT_EQ(both.describe(), "replicate 2 x pipeline 2");
    EXPECT_EQ(members(*both.world(), rank), ranks_with(rank, {{2, 4}, {2, 1}}));
    EXPECT_EQ(both.world()->rank(), rank / 4 * 2 + rank % 2) << "row-major, as a mesh of its own";
    EXPECT_EQ(both.coordinate("replicate"), rank / 4);
    EXPECT_EQ(both.coordinate("pipeline"), rank % 2);
    EXPECT_EQ(both.group("pipeline"), mesh.group("pipeline")) << "a group is made once";
    EXPECT_FALSE(both.has("shard"));
    EXPECT_THAT(
        [&] { both.group("shard"); },
        ThrowsMessage<UsageError>(HasSubstr("no dimension 'shard' in replicate 2 x pipeline 2")));
    EXPECT_EQ(mesh.submesh({"replicate", "pipeline"}).world(), both.world());
    EXPECT_EQ(both.submesh({"replicate"}).world(), mesh.group("replicate"));
    EXPECT_EQ(mesh.submesh({"replicate", "shard", "tensor", "pipeline"}).world(), world);
    EXPECT_EQ(mesh.submesh({"replicate", "shard", "pipeline"}).world(), world);
    const DeviceMesh three = mesh.submesh({"shard", "tensor", "pipeline"});
    EXPECT_EQ(members(*three.world(), rank), ranks_with(rank, {{2, 2}, {2, 1}}));
  });
}

TEST(DeviceMesh, FlattenedDimensionsAreOneForTheWholeMesh) {
  on_ranks(8, [](std::shared_ptr<ProcessGroup> world) {
    const int rank = world->rank();
    const DeviceMesh mesh(world, four_dimensions());
    EXPECT_FALSE(mesh.has("data"));
    const DeviceMesh data = mesh.flatten({"replicate", "shard"}, "data");
    EXPECT_EQ(data.describe(), "data 4");
    EXPECT_EQ(members(*data.world(), rank), ranks_with(rank, {{2, 4}, {2, 2}}));
    EXPECT_EQ(data.group("data"), data.world());
    EXPECT_EQ(mesh.size("data"), 4);
    EXPECT_EQ(mesh.coordinate("data"), rank / 2);
    EXPECT_EQ(mesh.group("data")->rank(), rank / 2);
    EXPECT_EQ(mesh.group("data"), data.world());
    EXPECT_EQ(mesh.submesh({"replicate", "shard"}).world(), data.world());
    EXPECT_EQ(mesh.flatten({"replicate", "shard"}, "data").world(), data.world());
    EXPECT_EQ(mesh.describe(), "replicate 2 x shard 2 x tensor 1 x pipeline 2");
    const DeviceMesh with_pipeline = mesh.submesh({"data", "pipeline"});
    EXPECT_EQ(with_pipeline.describe(), "data 4 x pipeline 2");
    EXPECT_EQ(with_pipeline.world(), world);
    EXPECT_TRUE(mesh.submesh({"replicate", "shard"}).has("data"));
    EXPECT_FALSE(mesh.submesh({"replicate", "pipeline"}).has("data"));
    mesh.submesh({"replicate", "pipeline"}).flatten({"replicate", "pipeline"}, "ends");
    EXPECT_EQ(members(*mesh.group("ends"), rank), ranks_with(rank, {{2, 4}, {2, 1}}));
  });
}

TEST(DeviceMesh, SaysWhichNamesDoNotFit) {
  on_ranks(8, [](std::shared_ptr<ProcessGroup> world) {
    const DeviceMesh mesh(world, four_dimensions());
    mesh.flatten({"replicate", "shard"}, "data");
    const auto refused = [&](const std::vector<std::string>& names, const std::string& text) {
      EXPECT_THAT([&] { mesh.submesh(names); }, ThrowsMessage<UsageError>(HasSubstr(text)));
      EXPECT_THAT([&] { mesh.flatten(names, "new"); }, ThrowsMessage<UsageError>(HasSubstr(text)));
    };
    refused({}, "expected at least one dimension of replicate 2 x");
    refused({"replicate", "expert"}, "no dimension 'expert' in replicate 2 x shard 2 x tensor 1 x");
    refused({"shard", "shard"}, "'shard' appears twice in {shard, shard}");
    refused({"shard", "replicate"},
            "{shard, replicate} is not in the order of replicate 2 x shard 2 x tensor 1 x pipeline "
            "2: 'shard' does not end before 'replicate' begins");
    refused({"data", "shard"}, "'data' does not end before 'shard' begins");
    const auto not_flattened = [&](const std::string& name, const std::string& text) {
      EXPECT_THAT(
          [&] {
            mesh.flatten({"shard", "pipeline"}, name);
          },
          ThrowsMessage<UsageError>(HasSubstr(text)));
    };
    not_flattened("", "is flattened to a dimension without a name");
    not_flattened("tensor", "cannot be flattened to 'tensor', which is a dimension of replicate 2");
    not_flattened("data", "cannot be flattened to 'data': other dimensions are already");
    EXPECT_FALSE(mesh.has("new"));
  });
}

TEST(DeviceMesh, RanksThatAskForDifferentSubmeshesAllLearnIt) {
  on_ranks(8, [](std::shared_ptr<ProcessGroup> world) {
    const DeviceMesh mesh(world, four_dimensions());
    const std::string other = world->rank() == 5 ? "pipeline" : "shard";
    EXPECT_THAT(
        [&] {
          mesh.submesh({"replicate", other});
        },
        ThrowsMessage<UsageError>(
            HasSubstr("ranks 0 and 5 ask for different meshes: {replicate, shard} of ")));
    EXPECT_THAT(
        [&] {
          mesh.flatten({"replicate", other}, "two");
        },
        ThrowsMessage<UsageError>(HasSubstr("flattened to 'two'")));
    EXPECT_FALSE(mesh.has("two"));
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
