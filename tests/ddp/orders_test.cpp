// Micro-batches whose backward passes come in another order than the plain one, as in pipelines.
#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <random>

#include <gmock/gmock.h>

#include "ddp/ddp.h"
#include "tests/ddp/net.h"

namespace lockstep::ddp {
namespace {

using namespace test;
using ::testing::Each;
using ::testing::HasSubstr;

// The order in which a rank takes the micro-batches first … first + count - 1.
using Order = std::function<std::vector<int64_t>(int64_t first, int64_t count)>;

std::vector<int64_t> plain(int64_t first, int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), first);
  return order;
}

std::vector<int64_t> pairs_turned(int64_t first, int64_t count) {
  std::vector<int64_t> order = plain(first, count);
  for (size_t i = 0; i + 1 < order.size(); i += 2) std::swap(order[i], order[i + 1]);
  return order;
}

std::vector<int64_t> last_first(int64_t first, int64_t count) {
  std::vector<int64_t> order = plain(first, count);
  std::reverse(order.begin(), order.end());
  return order;
}

std::vector<int64_t> shuffled(int64_t first, int64_t count) {
  std::vector<int64_t> order = plain(first, count);
  std::mt19937_64 engine(11);
  std::shuffle(order.begin(), order.end(), engine);
  return order;
}

// The gradients of two steps. `ahead`: all forward passes come first, in the plain order.
std::vector<uint32_t> gradients(const Order& order, int ranks, int64_t micro_batches, bool ahead) {
  std::vector<uint32_t> seen;
  expect_success(run_group(ranks, [&](const Group& group) {
    const Net net;
    DistributedDataParallel ddp(
        net.parameters, {}, group,
        {.micro_batches = micro_batches, .first_bucket_bytes = 64, .bucket_bytes = 600});
    const int64_t first = ddp.tree().begin(group->rank());
    const int64_t count = ddp.tree().begin(group->rank() + 1) - first;
    for (int64_t step = 0; step < 2; ++step) {
      std::map<int64_t, Variable> losses;
      if (ahead)
        for (const int64_t micro : plain(first, count)) losses[micro] = net.loss(micro + step);
      for (const int64_t micro : order(first, count))
        ddp.backward(ahead ? losses.at(micro) : net.loss(micro + step), micro);
      ddp.finish();
      if (group->rank() != 0) continue;
      for (const uint32_t b : bits(net.parameters)) seen.push_back(b);
    }
  }));
  return seen;
}

TEST(DdpOrders, NoOrderChangesTheGradients) {
  for (const int64_t micro_batches : {8, 13}) {
    const auto want = gradients(plain, 1, micro_batches, false);
    ASSERT_FALSE(want.empty());
    for (const Order& order :
         {Order(plain), Order(pairs_turned), Order(last_first), Order(shuffled)})
      for (const int ranks : {1, 2, 3, 4})
        for (const bool ahead : {false, true})
          EXPECT_EQ(gradients(order, ranks, micro_batches, ahead), want)
              << ranks << " ranks, V " << micro_batches;
  }
}

TEST(DdpOrders, AMicroBatchThatCannotBeDoneIsNamed) {
  const auto refused = [](const std::function<void(DistributedDataParallel&, const Net&)>& order) {
    return run_group(2, [&](const Group& group) {
      const Net net;
      DistributedDataParallel ddp(net.parameters, {}, group, {.micro_batches = 8});
      order(ddp, net);
    });
  };
  EXPECT_THAT(
      refused([](DistributedDataParallel& ddp, const Net& net) { ddp.backward(net.loss(0), 8); }),
      Each(HasSubstr("micro-batch 8 is not run by rank")));
  EXPECT_THAT(refused([](DistributedDataParallel& ddp, const Net& net) {
                const auto guard = ddp.no_sync();
                ddp.backward(net.loss(0), 0);
              })[0],
              HasSubstr("micro-batches come in order"));
  // Otherwise the guarded micro-batches would fill the hole, and the sum would end before the later
  // one.
  expect_success(run_group(1, [](const Group& group) {
    const Net net;
    DistributedDataParallel ddp(net.parameters, {}, group, {.micro_batches = 4});
    ddp.backward(net.loss(2), 2);
    {
      const auto guard = ddp.no_sync();
      EXPECT_THROW(ddp.backward(net.loss(0)), UsageError);
    }
    for (const int64_t micro : {0, 1, 3}) ddp.backward(net.loss(micro), micro);
    ddp.finish();
  }));
  // What threw is still to be done, whatever comes next.
  expect_success(run_group(1, [](const Group& group) {
    const Net net;
    DistributedDataParallel ddp(net.parameters, {}, group, {.micro_batches = 2});
    const HookHandle hook = net.parameters[0].add_grad_hook(
        [](const Parameter&) { throw EnvironmentError("no more memory"); });
    EXPECT_THROW(ddp.backward(net.loss(1), 1), EnvironmentError);
    hook.remove();
    ddp.backward(net.loss(0));
    EXPECT_THROW(ddp.backward(net.loss(0), 0), UsageError);
    ddp.backward(net.loss(1), 1);
    ddp.finish();
  }));
}

// A rank without input takes part in every micro-batch of a step, however many there are.
TEST(DdpOrders, ARankMaySkipSeveralMicroBatchesOfAStep) {
  const auto gradients_of = [](int ranks) {
    std::vector<uint32_t> seen;
    expect_success(run_group(ranks, [&](const Group& group) {
      const Net net;
      DistributedDataParallel ddp(net.parameters, {}, group);
      const bool has_input = group->rank() == 0;
      EXPECT_EQ(ddp.active_ranks(has_input), 1);
      const auto take = [&](int64_t micro) {
        has_input ? ddp.backward(net.loss(micro)) : ddp.skip();
      };
      {
        const auto guard = ddp.no_sync();
        take(0);
      }
      take(1);
      ddp.finish();
      if (has_input) seen = bits(net.parameters);
    }));
    return seen;
  };
  const auto want = gradients_of(1);
  ASSERT_FALSE(want.empty());
  EXPECT_EQ(gradients_of(2), want);
}

}  // namespace
}  // namespace lockstep::ddp
