// Who may touch whose tensors in the local backend, and until when. The hub itself, without the
// engine, whose abort would hide what happens between a call's failure and the end of its group.
#include "comm/local/hub.h"

#include <future>
#include <new>
#include <thread>

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace lockstep::comm::local {
namespace {

constexpr int64_t kCount = 1000;
using Values = std::vector<float>;

Call call_of(Op op, Values& values, int rank, int root, Duration limit) {
  Call call;
  call.fingerprint = {.sequence = 1,
                      .count = kCount,
                      .root = op == Op::recv   ? root
                              : op == Op::send ? rank
                                               : -1,
                      .op = op};
  if (op == Op::recv) call.fingerprint.op = Op::send;
  call.in = call.out = values.data();
  call.op = op;
  call.dtype = DType::f32;
  call.count = kCount;
  call.root = root;
  call.limit = Limit(Deadline::after(limit), "the test's call");
  return call;
}

template <typename F>
std::string failure_of(F&& body) {
  try {
    body();
  } catch (const EnvironmentError& e) {
    return e.what();
  }
  return "";
}

TEST(Hub, AReceiverThatComesAfterItsSenderGaveUpGetsNothing) {
  Hub hub(2);
  Values sent(kCount, 1), received(kCount, 0);
  EXPECT_NE(failure_of([&] { hub.message(0, call_of(Op::send, sent, 0, 1, Duration::zero())); }),
            "");
  sent.assign(kCount, -7);  // its owner's again
  const std::string failure =
      failure_of([&] { hub.message(1, call_of(Op::recv, received, 1, 0, Duration::max())); });
  EXPECT_NE(failure.find("the test's call"), std::string::npos) << failure;
  EXPECT_EQ(received, Values(kCount, 0));
}

TEST(Hub, ASenderThatComesAfterItsReceiverGaveUpFails) {
  Hub hub(2);
  Values sent(kCount, 1), received(kCount, 0);
  EXPECT_NE(
      failure_of([&] { hub.message(1, call_of(Op::recv, received, 1, 0, Duration::zero())); }), "");
  EXPECT_NE(failure_of([&] { hub.message(0, call_of(Op::send, sent, 0, 1, Duration::max())); }),
            "");
  EXPECT_EQ(received, Values(kCount, 0));
}

TEST(Hub, ARankThatComesAfterAnotherOneGaveUpMovesNothing) {
  Hub hub(2);
  Values first(kCount, 1), second(kCount, 2);
  const auto move = [](const std::vector<Call>&) { ADD_FAILURE() << "moved"; };
  EXPECT_NE(failure_of([&] {
              hub.collective(0, call_of(Op::all_reduce, first, 0, -1, Duration::zero()), move);
            }),
            "");
  EXPECT_NE(failure_of([&] {
              hub.collective(1, call_of(Op::all_reduce, second, 1, -1, Duration::max()), move);
            }),
            "");
}

TEST(Hub, AnAbortReleasesNobodyWhileAPeerIsAtItsTensors) {
  Hub hub(2);
  Values first(kCount, 1), second(kCount, 2);
  std::promise<void> returned;
  const auto has_returned = returned.get_future().share();
  // Waits before the other one comes, so it finds the abort when it wakes.
  std::thread waiting([&] {
    failure_of([&] {
      hub.collective(0, call_of(Op::all_reduce, first, 0, -1, Duration::max()), [](const auto&) {});
    });
    returned.set_value();
  });
  failure_of([&] {
    hub.collective(1, call_of(Op::all_reduce, second, 1, -1, Duration::max()),
                   [&](const std::vector<Call>&) {
                     hub.abort("enough");
                     EXPECT_EQ(has_returned.wait_for(std::chrono::milliseconds(100)),
                               std::future_status::timeout);
                   });
  });
  waiting.join();
}

TEST(Hub, WhoJoinsAsksWhetherTheOthersWillCome) {
  const auto check = [](const std::vector<int>& missing) {
    EXPECT_EQ(missing, std::vector<int>{1});
    throw EnvironmentError("rank 1 comes no more");
  };
  const Limit limit = Deadline::after(Duration::max());
  EXPECT_EQ(failure_of([&] { Hub::join("key", 0, 2, "forming", limit, check); }),
            "rank 1 comes no more");
}

TEST(Hub, AnExceptionInAMoveReleasesTheOthersWithItsReason) {
  Hub hub(2);
  Values first(kCount, 1), second(kCount, 2);
  std::string others;
  std::thread other([&] {
    others = failure_of([&] {
      hub.collective(0, call_of(Op::all_reduce, first, 0, -1, Duration::max()), [](const auto&) {});
    });
  });
  const auto out_of_memory = [](const std::vector<Call>&) { throw std::bad_alloc(); };
  EXPECT_THROW(
      hub.collective(1, call_of(Op::all_reduce, second, 1, -1, Duration::max()), out_of_memory),
      std::bad_alloc);
  other.join();
  EXPECT_NE(others.find("bad_alloc"), std::string::npos) << others;
}

}  // namespace
}  // namespace lockstep::comm::local
