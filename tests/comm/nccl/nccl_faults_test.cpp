// What a group over NCCL says when the simulated NCCL, or a device, fails.
#include <atomic>

#include <gmock/gmock.h>

#include "comm/nccl/sim/faults.h"
#include "comm/peer_failure.h"
#include "core/device/cuda/sim/launch.h"
#include "tests/comm/nccl/nccl_ranks.h"
#include "tests/support/error_of.h"

namespace lockstep::comm {
namespace {

using nccl::sim::Fault;
using nccl::sim::plant;
using test::error_of;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

[[maybe_unused]] const bool kSimulated = test::simulate_devices(test::kNcclDevices);

constexpr GroupOptions kShort{.timeout = std::chrono::seconds(2)};
constexpr int kRanks = 3;

class NcclFaults : public testing::Test {
 protected:
  ~NcclFaults() override { plant(Fault::none, -1); }
};

// The queue goes on once the group has ended: nothing waits for ever.
void expect_end(ProcessGroup& g, const testing::Matcher<std::string>& said) {
  const Tensor t = Tensor::zeros({10000}, DType::f32, g.device());
  const Work work = g.all_reduce(t);
  EXPECT_THAT(error_of([&] {
                work.wait();
                work.synchronize();
              }),
              said);
  EXPECT_TRUE(work.done());
  t.to(kCpu);
  EXPECT_THAT(error_of([&] { g.all_reduce(t).wait(); }), said);
  EXPECT_THAT(error_of([&] { g.host().barrier().wait(); }), said);
}

TEST_F(NcclFaults, AHangInsideNcclEndsAtTheLimit) {
  plant(Fault::hang, 1, 0);
  test::run_nccl(
      kRanks,
      [](ProcessGroup& g) {
        expect_end(g, AllOf(HasSubstr("all_reduce #1"), HasSubstr("time limit of 2 s reached"),
                            HasSubstr("all ranks have come to the call"),
                            HasSubstr("waits in it for another rank's device")));
      },
      kShort);
}

TEST_F(NcclFaults, AnErrorOfNcclEndsTheGroupBeforeTheLimit) {
  plant(Fault::error, 1, 0);
  test::run_nccl(kRanks, [](ProcessGroup& g) {
    expect_end(g, AllOf(HasSubstr("on rank 1 of 3"), HasSubstr("[nccl]"),
                        HasSubstr("unhandled system error")));
  });
}

TEST_F(NcclFaults, ADeviceThatStandsStillIsNamedOnAllRanks) {
  const auto open = std::make_shared<std::atomic<bool>>(false);
  test::run_nccl(
      kRanks,
      [&](ProcessGroup& g) {
        const Queue queue = Queue::create(g.device());
        const QueueScope scope(queue);
        if (g.rank() == 2)
          cuda::sim::enqueue(
              "obstacle", queue.native(), [open] { return open->load(); }, [] {});
        const Work work = g.all_reduce(Tensor::zeros({10000}, DType::f32, g.device()));
        EXPECT_THAT(
            error_of([&] { work.synchronize(); }),
            AllOf(HasSubstr("all_reduce #1"),
                  HasSubstr("cuda:2 of rank 2 has not done what was queued before the call")));
        if (g.rank() == 2) {
          open->store(true);
          cuda::sim::wake();
        }
      },
      kShort);
}

// A device that waits in another group's call is not the one that stands still. The rank whose
// device does is patient, so the others are the first to ask.
TEST_F(NcclFaults, ADeviceThatWaitsInAnotherGroupsCallIsNotBlamed) {
  const auto open = std::make_shared<std::atomic<bool>>(false);
  const auto store = std::make_shared<HashStore>();
  test::run_nccl(kRanks, [&](ProcessGroup& patient) {
    GroupOptions options = kShort;
    if (patient.rank() == 2) options.timeout = std::chrono::seconds(60);
    options.name = "impatient";
    options.device = patient.device();
    const auto impatient = create("nccl", store, patient.rank(), kRanks, options);
    const Queue queue = Queue::create(patient.device());
    const QueueScope scope(queue);
    if (patient.rank() == 2)
      cuda::sim::enqueue(
          "obstacle", queue.native(), [open] { return open->load(); }, [] {});
    const Work first = patient.all_reduce(Tensor::zeros({10000}, DType::f32, patient.device()));
    first.wait();
    const Work second = impatient->all_reduce(Tensor::zeros({10000}, DType::f32, patient.device()));
    EXPECT_THAT(error_of([&] { second.synchronize(); }),
                AllOf(HasSubstr("'impatient'"),
                      HasSubstr("it waits for another rank's device in all_reduce #1"),
                      HasSubstr("in group 'world'")));
    if (patient.rank() == 2) {
      open->store(true);
      cuda::sim::wake();
    }
    first.synchronize();
  });
}

TEST_F(NcclFaults, ARankThatDoesNotCallIsNamed) {
  test::run_nccl(
      kRanks,
      [](ProcessGroup& g) {
        const Tensor t = Tensor::zeros({10000}, DType::f32, g.device());
        if (g.rank() == 1) {
          EXPECT_NE(error_of([&] { g.host().barrier().wait(); }), "(no error)");
          return;
        }
        EXPECT_THAT(
            error_of([&] { g.all_reduce(t).wait(); }),
            AllOf(HasSubstr("all_reduce #1"), HasSubstr("rank 1"), HasSubstr("has not arrived")));
      },
      kShort);
}

TEST_F(NcclFaults, AnAbortEndsWhatIsQueued) {
  plant(Fault::hang, 1, 0);
  test::run_nccl(kRanks, [](ProcessGroup& g) {
    const Tensor t = Tensor::zeros({10000}, DType::f32, g.device());
    const Work work = g.all_reduce(t);
    work.wait();
    if (g.rank() == 0) g.abort("enough");
    EXPECT_THAT(error_of([&] { work.synchronize(); }), HasSubstr("enough"));
    t.to(kCpu);
  });
}

TEST_F(NcclFaults, ARankThatCannotJoinIsNamedByTheOthers) {
  plant(Fault::error_in_init, 1);
  const auto store = std::make_shared<HashStore>();
  test::run_threads(kRanks, [&](int rank) {
    EXPECT_THAT(error_of([&] {
                  create("nccl", store, rank, kRanks,
                         {.timeout = std::chrono::seconds(60),
                          .device = test::device_of(rank, test::kNcclDevices)});
                }),
                AllOf(HasSubstr("forming the communicator"), HasSubstr("unhandled system error"),
                      AnyOf(HasSubstr("rank 1"),
                            testing::Truly([&](const std::string&) { return rank == 1; }))));
  });
}

TEST_F(NcclFaults, ARankThatHangsWhileJoiningEndsAtTheLimit) {
  plant(Fault::hang_in_init, 1);
  const auto store = std::make_shared<HashStore>();
  test::run_threads(kRanks, [&](int rank) {
    EXPECT_THAT(error_of([&] {
                  create("nccl", store, rank, kRanks,
                         {.timeout = std::chrono::seconds(2),
                          .device = test::device_of(rank, test::kNcclDevices)});
                }),
                AllOf(HasSubstr("time limit of 2 s reached"),
                      HasSubstr("[nccl] forming the communicator")));
  });
}

}  // namespace
}  // namespace lockstep::comm
