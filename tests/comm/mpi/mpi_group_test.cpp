// Every rank of an MPI job runs these tests, in step. What all backends have in common is in the
// conformance suite; here is what is special about MPI.
#include <cstring>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/mpi/factory.h"
#include "comm/mpi/job.h"
#include "comm/process_group.h"
#include "comm/store.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {

using namespace std::chrono_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class MpiGroupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const MpiJob job = mpi_job().value_or(MpiJob{});
    rank = job.rank;
    size = job.size;
  }
  std::unique_ptr<ProcessGroup> group(Reduction reduction = Reduction::tree,
                                      Duration timeout = 20s) const {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    return create("mpi", nullptr, rank, size,
                  {.name = test->name(), .timeout = timeout, .reduction = reduction});
  }
  int last() const { return size - 1; }

  int rank = 0;
  int size = 1;
};

// Values whose sums depend on their order.
std::vector<float> uneven_values(int rank, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  uint32_t state = 12345u + 977u * static_cast<uint32_t>(rank);
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value =
        (static_cast<float>(state >> 8) * 0x1p-24f - 0.5f) * static_cast<float>(1 << (state & 15));
  }
  return values;
}

TEST_F(MpiGroupTest, TreeOrderGivesTheBitsOfTheTree) {
  const auto world = group();
  const ReduceTree tree(2 * size + 1, size);
  for (const int64_t count : {int64_t{1}, int64_t{1000}, int64_t{300001}}) {
    std::vector<std::vector<float>> expected;
    for (int r = 0; r < size; ++r) expected.push_back(uneven_values(r, count));
    for (const auto [left, right] : tree.steps())
      for (size_t i = 0; i < static_cast<size_t>(count); ++i)
        expected[static_cast<size_t>(left)][i] += expected[static_cast<size_t>(right)][i];
    const Tensor tensor = Tensor::from(uneven_values(rank, count), {count});
    world->all_reduce(tensor, {.tree = &tree}).wait();
    EXPECT_EQ(std::memcmp(tensor.raw(), expected[0].data(), static_cast<size_t>(tensor.bytes())), 0)
        << count << " elements";
  }
}

// Small whole numbers: every order of summation is exact in every dtype.
Tensor whole_numbers(int64_t count, DType dtype, int first) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>((first + static_cast<int>(i)) % 4);
  return Tensor::from(values, {count}).to(dtype);
}

// Runs every collective once and returns all that came out.
std::vector<float> results_of_all(ProcessGroup& g, DType dtype, int64_t n) {
  const int rank = g.rank(), size = g.size(), root = size - 1;
  std::vector<float> all;
  const auto keep = [&](const Tensor& t) {
    const auto values = t.to_vector<float>();
    all.insert(all.end(), values.begin(), values.end());
  };
  const auto slice = [&](const Tensor& t) { return t.narrow(0, rank * n, n); };

  Tensor t = whole_numbers(n, dtype, rank);
  g.all_reduce(t).wait();
  keep(t);
  t = whole_numbers(n, dtype, rank);
  g.all_reduce(t, {.op = ReduceOp::max}).wait();
  keep(t);
  t = whole_numbers(n, dtype, rank);
  g.reduce(t, root).wait();
  keep(t);
  Tensor big = whole_numbers(n * size, dtype, rank);
  Tensor small = Tensor::zeros({n}, dtype);
  g.reduce_scatter(small, big).wait();
  keep(small);
  g.reduce_scatter(slice(big), big).wait();
  keep(slice(big));
  big = Tensor::zeros({n * size}, dtype);
  g.all_gather(big, whole_numbers(n, dtype, rank + 1)).wait();
  keep(big);
  slice(big).copy_(whole_numbers(n, dtype, rank + 2));
  g.all_gather(big, slice(big)).wait();
  keep(big);
  t = whole_numbers(n, dtype, rank + 3);
  g.broadcast(t, root).wait();
  keep(t);
  big = Tensor::zeros({n * size}, dtype);
  g.gather(rank == root ? big : Tensor(), whole_numbers(n, dtype, rank), root).wait();
  keep(big);
  g.gather(rank == root ? big : Tensor(), rank == root ? slice(big) : small, root).wait();
  keep(big);
  g.scatter(small, rank == root ? big : Tensor(), root).wait();
  keep(small);
  g.scatter(rank == root ? slice(big) : small, rank == root ? big : Tensor(), root).wait();
  keep(small);
  const Tensor other = Tensor::zeros({n * size}, dtype);
  g.all_to_all(other, whole_numbers(n * size, dtype, rank)).wait();
  keep(other);
  g.barrier().wait();
  return all;
}

TEST_F(MpiGroupTest, FastOrderDoesTheSameAsTreeOrder) {
  const auto tree = group();
  const auto fast = group(Reduction::fast);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8})
    for (const int64_t n : {0, 1, 777, 40000})
      EXPECT_EQ(results_of_all(*fast, dtype, n), results_of_all(*tree, dtype, n))
          << dtype << ", " << n;
}

TEST_F(MpiGroupTest, FastOrderComparesFingerprintsToo) {
  if (size == 1) GTEST_SKIP() << "nobody to differ from";
  const auto world = group(Reduction::fast);
  const Tensor tensor = Tensor::zeros({rank == last() ? 4 : 3});
  EXPECT_THAT([&] { world->all_reduce(tensor).wait(); },
              ThrowsMessage<UsageError>(HasSubstr(str("rank ", last()))));
}

TEST_F(MpiGroupTest, GroupsInUseAtOnceDoNotMeet) {
  const auto first = group(), second = group(Reduction::fast);
  const auto part = first->split(rank % 2, 0);
  for (int round = 0; round < 20; ++round) {
    const Tensor a = Tensor::full({1000}, 1.0), b = Tensor::full({2000}, 2.0),
                 c = Tensor::full({3000}, 3.0);
    std::vector<Work> works;
    // Each group has the same order on all ranks, but the ranks take the groups in different order.
    if (rank % 2 == 0) works.push_back(first->all_reduce(a));
    works.push_back(second->all_reduce(b));
    works.push_back(part->all_reduce(c));
    if (rank % 2 == 1) works.push_back(first->all_reduce(a));
    for (const Work& work : works) work.wait();
    ASSERT_EQ(a.to_vector<float>(), std::vector<float>(1000, static_cast<float>(size)));
    ASSERT_EQ(b.to_vector<float>(), std::vector<float>(2000, 2.0f * static_cast<float>(size)));
    ASSERT_EQ(c.to_vector<float>(),
              std::vector<float>(3000, 3.0f * static_cast<float>(part->size())));
  }
}

TEST_F(MpiGroupTest, RanksThatCreateDifferentGroupsAreTold) {
  if (size == 1) GTEST_SKIP() << "nobody to differ from";
  const std::string name = rank == 0 ? "train" : "validate";
  EXPECT_THAT([&] { create("mpi", nullptr, rank, size, {.name = name, .timeout = 20s}); },
              ThrowsMessage<UsageError>(HasSubstr(name)));
}

TEST_F(MpiGroupTest, AfterATimeOutNewGroupsWork) {
  if (size == 1) GTEST_SKIP() << "nobody to wait for";
  const auto store = mpi_store();
  group()
      ->barrier()
      .wait();  // so that the short limit does not hold for the time until all are here
  {
    const auto world = group(Reduction::tree, rank == last() ? 20s : 1s);
    if (rank == last())
      store->get("gave up", 20s);
    else  // by its own clock or by a faster rank's
      EXPECT_THAT([&] { world->barrier().wait(); },
                  ThrowsMessage<EnvironmentError>(AllOf(HasSubstr(str("rank ", last(), " (pid ")),
                                                        HasSubstr("has not arrived"))));
    if (rank == 0) store->set("gave up", "");
  }
  const Tensor tensor = Tensor::full({10}, 1.0);
  group()->all_reduce(tensor).wait();
  EXPECT_EQ(tensor.to_vector<float>()[9], static_cast<float>(size));
}

TEST_F(MpiGroupTest, ARankThatLeavesIsNamed) {
  if (size == 1) GTEST_SKIP() << "nobody to leave";
  auto world = group();
  world->barrier().wait();
  if (rank == last())
    world.reset();
  else
    EXPECT_THAT([&] { world->barrier().wait(); },
                ThrowsMessage<EnvironmentError>(HasSubstr(str("rank ", last()))));
}

TEST_F(MpiGroupTest, AnAbortReachesAllRanksWithItsReason) {
  if (size == 1) GTEST_SKIP() << "nobody to reach";
  const auto world = group();
  world->barrier().wait();
  if (rank == 0)
    world->abort("the data ran out");
  else
    EXPECT_THAT([&] { world->barrier().wait(); },
                ThrowsMessage<EnvironmentError>(HasSubstr("the data ran out")));
}

TEST_F(MpiGroupTest, AnAbortLeavesOtherGroupsAlone) {
  const auto stays = group(), goes = group();
  goes->abort("no longer wanted");
  stays->barrier().wait();
  EXPECT_THROW(goes->barrier().wait(), Error);
}

TEST_F(MpiGroupTest, LargeMessagesPassEachOther) {
  if (size == 1) GTEST_SKIP() << "nobody to send to";
  const auto world = group();
  const int next = (rank + 1) % size, previous = (rank + size - 1) % size;
  const int64_t count = 1 << 19;
  const Tensor mine = Tensor::full({count}, rank);
  const Tensor left = Tensor::empty({count}), right = Tensor::empty({count});
  for (const Work& work : {world->send(mine, next), world->recv(left, previous),
                           world->send(mine, previous), world->recv(right, next)})
    work.wait();
  EXPECT_EQ(left.to_vector<float>(),
            std::vector<float>(static_cast<size_t>(count), static_cast<float>(previous)));
  EXPECT_EQ(right.to_vector<float>(),
            std::vector<float>(static_cast<size_t>(count), static_cast<float>(next)));
}

TEST_F(MpiGroupTest, TheStoreIsShared) {
  const auto store = mpi_store();
  EXPECT_EQ(store, mpi_store());
  store->add("ranks", 1);
  store->set(str("value of ", rank), std::string(20000, static_cast<char>('a' + rank)));
  for (int r = 0; r < size; ++r)
    EXPECT_EQ(store->get(str("value of ", r), 20s), std::string(20000, static_cast<char>('a' + r)));
  // All have counted before any could have read the last value.
  EXPECT_EQ(store->add("ranks", 0), size);
  const std::string winner = store->compare_and_set("first", "", std::to_string(rank));
  EXPECT_EQ(store->get("first", 20s), winner);
  EXPECT_EQ(store->compare_and_set("first", "nobody", "me"), winner);
  const std::string own = str("own of ", rank), other = str("other of ", rank);
  store->set(own, "1");
  store->set(other, "2");
  store->remove({own, "nobody set this", other});
  EXPECT_THROW(store->get(other, 0s), TimeoutError);
  EXPECT_EQ(store->add(own, 3), 3);
}

TEST_F(MpiGroupTest, TheStoreKeepsItsLimits) {
  const auto store = mpi_store();
  EXPECT_THAT([&] { store->get("never set", 50ms); },
              ThrowsMessage<TimeoutError>(HasSubstr("'never set'")));
  EXPECT_THROW(store->wait({"never set"}, 50ms), TimeoutError);
  store->set(str("word ", rank), "word");
  EXPECT_THROW(store->add(str("word ", rank), 1), UsageError);
  store->set(str("word ", rank), "still works");
}

TEST_F(MpiGroupTest, SharedMemoryMeetsThroughTheStore) {
  const auto shm = create("shm", mpi_store(), rank, size, {.name = "shm", .timeout = 20s});
  const auto mpi = group();
  const Tensor a = Tensor::from(uneven_values(rank, 10000), {10000}), b = a.clone();
  shm->all_reduce(a).wait();
  mpi->all_reduce(b).wait();
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())), 0);
}

}  // namespace
}  // namespace lockstep::comm
