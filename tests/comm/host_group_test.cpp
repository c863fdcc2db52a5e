// The group on the CPU beside a group whose device is another one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "comm/device_mesh.h"
#include "comm/long_agreement.h"
#include "comm/text.h"
#include "tests/support/device_group.h"
#include "tests/support/error_of.h"
#include "tests/support/fork_store.h"

namespace lockstep::comm {
namespace {

using test::device_group;
using test::DeviceBackend;
using test::error_of;
using testing::HasSubstr;

constexpr auto kLong = std::chrono::seconds(60);

// What the ranks of a group have in sum, by its host group.
int sum_of_ones(ProcessGroup& group) {
  const Tensor one = Tensor::full({1}, 1, DType::i32);
  group.host().all_reduce(one).wait();
  return one.data<int32_t>()[0];
}

TEST(HostGroup, OfAGroupOnACpuIsThatGroup) {
  const auto store = std::make_shared<HashStore>();
  for (const char* backend : {"local", "shm"})
    test::run_threads(2, [&](int rank) {
      const auto group = create(backend, store, rank, 2);
      EXPECT_EQ(&group->host(), group.get());
      const auto part = group->split(0, rank);
      EXPECT_EQ(&part->host(), part.get());
    });
}

TEST(HostGroup, OfAGroupOnADeviceIsOneOnTheCpu) {
  for (const int ranks : {1, 2, 3}) {
    const auto store = std::make_shared<HashStore>();
    test::run_threads(ranks, [&](int rank) {
      const auto group = device_group(store, rank, ranks);
      ProcessGroup& host = group->host();
      EXPECT_NE(&host, group.get());
      EXPECT_EQ(&host.host(), &host);
      EXPECT_EQ(host.rank(), rank);
      EXPECT_EQ(host.size(), ranks);
      EXPECT_EQ(host.name(), "world/host");
      EXPECT_EQ(sum_of_ones(*group), ranks);
      // The group itself takes nothing from the host.
      EXPECT_THAT(error_of([&] { group->all_reduce(Tensor::zeros({1})); }),
                  HasSubstr("must be on cuda:0, the group's device"));
      EXPECT_EQ(sum_of_ones(*group), ranks);
    });
    EXPECT_EQ(store->size(), 0u) << "keys of " << ranks << " ranks are left";
  }
}

TEST(HostGroup, SplitsWithItsGroup) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(5, [&](int rank) {
    const auto group = device_group(store, rank, 5);
    // 4 and 2; 3 and 1; 0 joins none.
    const auto part = group->split(rank == 0 ? -1 : rank % 2, -rank);
    if (rank == 0) {
      EXPECT_EQ(part, nullptr);
      return;
    }
    EXPECT_EQ(part->size(), 2);
    EXPECT_EQ(part->rank(), rank > 2 ? 0 : 1);
    EXPECT_EQ(part->host().rank(), part->rank());
    EXPECT_EQ(sum_of_ones(*part), 2);
    const auto again = part->split(0, 0);
    EXPECT_EQ(sum_of_ones(*again), 2);
  });
  EXPECT_EQ(store->size(), 0u);
}

TEST(HostGroup, ADeviceWithoutAHostGroupIsRefused) {
  const auto seen = std::make_shared<DeviceBackend::Seen>();
  EXPECT_THAT(error_of([&] {
                ProcessGroup(std::make_unique<DeviceBackend>(0, 1, seen), {.name = "gpus"});
              }),
              HasSubstr("group 'gpus' is on cuda:0, so it needs a host group"));
}

TEST(HostGroup, TextsVotesAndMeshesNeedNoDevice) {
  test::run_device_group(4, [](const std::shared_ptr<ProcessGroup>& group) {
    const int rank = group->rank();
    const auto own = str("text of ", rank);
    EXPECT_EQ(all_gather_text(*group, own)[3], "text of 3");
    EXPECT_EQ(broadcast_text(*group, own, 2), "text of 2");
    EXPECT_TRUE(is_same_text(*group, "one"));
    EXPECT_FALSE(is_same_text(*group, own));
    EXPECT_EQ(agree(group.get(), [&] { return own; })[1], "text of 1");
    EXPECT_THAT(error_of([&] { check_same_lines(*group, own, "differs", "mend it"); }),
                HasSubstr("rank 0 has 'text of 0' where rank 1 has 'text of 1'"));
    const auto voted = comm::agree_on_long_work(
        group.get(), [&](const std::atomic<bool>&) { return std::to_string(rank); });
    EXPECT_EQ(voted, (std::vector<std::string>{"0", "1", "2", "3"}));
    const DeviceMesh mesh(group, {{"replicate", 2}, {"shard", 2}});
    EXPECT_EQ(sum_of_ones(*mesh.group("shard")), 2);
    EXPECT_THAT(error_of([&] {
                  DeviceMesh(group, {{rank == 3 ? "x" : "y", 4}});
                }),
                HasSubstr("ranks 0 and 3 ask for different meshes"));
  });
}

// An abort of one of the two on rank 0, or whatever ends it there.
void expect_both_end(const std::function<void(ProcessGroup&, DeviceBackend::Seen&)>& end,
                     const std::string& reason) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(2, [&](int rank) {
    const auto seen = std::make_shared<DeviceBackend::Seen>();
    const auto group = device_group(store, rank, 2, {.timeout = kLong}, seen);
    if (rank == 0) end(*group, *seen);
    // Rank 1 waits for rank 0 already, or comes later.
    EXPECT_THAT(error_of([&] { group->host().barrier().wait(); }), HasSubstr(reason));
    EXPECT_THAT(seen->aborted(), HasSubstr(reason)) << "on rank " << rank;
    EXPECT_THAT(error_of([&] { group->split(0, 0); }), HasSubstr(reason));
  });
}

TEST(HostGroup, EndsWithItsGroup) {
  expect_both_end([](ProcessGroup& group, auto&) { group.abort("enough"); },
                  "rank 0 aborted group 'world': enough");
}

TEST(HostGroup, EndsItsGroup) {
  expect_both_end([](ProcessGroup& group, auto&) { group.host().abort("enough"); },
                  "rank 0 aborted group 'world/host': enough");
}

TEST(HostGroup, EndsWhereACallOnTheDeviceFails) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(2, [&](int rank) {
    const auto seen = std::make_shared<DeviceBackend::Seen>();
    const auto group = device_group(store, rank, 2, {.timeout = kLong}, seen);
    seen->split_fails = rank == 0;
    const std::string failure = error_of([&] {
      const auto part = group->split(0, 0);
      group->host().barrier().wait();
    });
    EXPECT_THAT(failure, HasSubstr("the device does not split"));
    EXPECT_THAT(seen->aborted(), HasSubstr("the device does not split"));
  });
}

TEST(HostGroup, HasTheLimitOfItsGroup) {
  const auto store = std::make_shared<HashStore>();
  test::run_threads(2, [&](int rank) {
    const auto group = device_group(
        store, rank, 2, {.timeout = std::chrono::milliseconds(rank == 0 ? 100 : 60000)});
    if (rank == 1) {
      store->get("rank 0 gave up", kLong);
      return;
    }
    EXPECT_THAT(error_of([&] { group->host().barrier().wait(); }),
                AllOf(HasSubstr("time limit of 0.1 s reached"), HasSubstr("rank 1")));
    store->set("rank 0 gave up", "");
  });
}

TEST(HostGroup, SeesADeathAndEndsItsGroup) {
  const auto store = std::make_shared<test::ForkStore>();
  const auto ends = test::fork_ranks(3, [&](int rank) {
    const auto seen = std::make_shared<DeviceBackend::Seen>();
    const auto group = device_group(store, rank, 3, {.timeout = kLong}, seen);
    const auto part = group->split(0, rank);
    group->host().barrier().wait();
    if (rank == 1) ::raise(SIGKILL);
    EXPECT_THAT(error_of([&] { part->host().barrier().wait(); }),
                AllOf(HasSubstr("rank 1 (pid "), HasSubstr("died")));
    EXPECT_THAT(seen->aborted(), HasSubstr("died"));
  });
  test::expect_well(ends[0], 0);
  EXPECT_EQ(ends[1].signal, SIGKILL);
  test::expect_well(ends[2], 2);
}

}  // namespace
}  // namespace lockstep::comm
