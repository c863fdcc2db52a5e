// Recorded work of the simulated runtime: what a graph of NVIDIA's does, and what it refuses.
#include <functional>
#include <vector>

#include <gmock/gmock.h>

#include "core/device/cuda/sim/errors.h"
#include "tests/core/device/cuda/sim/sim_device.h"

namespace lockstep::cuda::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

GraphHandle recorded(const TestStream& stream, const std::function<void()>& work) {
  ok(api().capture_begin(stream));
  work();
  GraphHandle graph = nullptr;
  ok(api().capture_end(stream, &graph));
  return graph;
}

TEST(SimulatedGraphs, RunAtEachLaunchInTheirOrder) {
  const TestStream recorder, stream;
  std::vector<int> order;
  const GraphHandle graph = recorded(recorder, [&] {
    enqueue("first", recorder, [&] { order.push_back(1); });
    enqueue("second", recorder, [&] { order.push_back(2); });
  });
  recorder.synchronize();
  EXPECT_THAT(order, IsEmpty());
  ok(api().graph_launch(graph, stream));
  enqueue("between", stream, [&] { order.push_back(0); });
  ok(api().graph_launch(graph, stream));
  ok(api().graph_destroy(graph));  // what is queued still runs
  stream.synchronize();
  EXPECT_THAT(order, ElementsAre(1, 2, 0, 1, 2));
}

TEST(SimulatedGraphs, CountAsOneLaunch) {
  const TestStream stream;
  reset_statistics();
  const GraphHandle graph = recorded(stream, [&] {
    for (int i = 0; i < 5; ++i) enqueue("work", stream, [] {});
  });
  EXPECT_EQ(statistics(0).launches, 0);
  ok(api().graph_launch(graph, stream));
  EXPECT_EQ(statistics(0).launches, 1);
  stream.synchronize();
  ok(api().graph_destroy(graph));
}

TEST(SimulatedGraphs, RefuseWhatAGraphCannotHold) {
  const TestStream stream;
  const TestEvent event;
  const Array<int> x(4);
  std::vector<int> host(4);
  event.record(stream);
  ok(api().capture_begin(stream));
  EXPECT_EQ(api().capture_begin(stream), kCaptureUnsupported);
  EXPECT_EQ(api().event_record(event, stream), kCaptureUnsupported);
  EXPECT_EQ(api().stream_wait(stream, event), kCaptureUnsupported);
  EXPECT_EQ(api().stream_synchronize(stream), kCaptureUnsupported);
  EXPECT_EQ(api().copy(x.data(), host.data(), x.bytes(), stream), kCaptureUnsupported);
  EXPECT_EQ(api().copy(host.data(), x.data(), x.bytes(), stream), kCaptureUnsupported);
  ok(api().capture_end(stream, nullptr));
  EXPECT_EQ(api().capture_end(stream, nullptr), kInvalidValue);
  stream.synchronize();
}

TEST(SimulatedGraphs, BelongToTheirDevice) {
  const TestStream stream, other(1);
  const GraphHandle graph = recorded(stream, [&] { enqueue("work", stream, [] {}); });
  EXPECT_EQ(api().graph_launch(graph, other), kInvalidHandle);
  ok(api().graph_destroy(graph));
  EXPECT_EQ(api().graph_launch(graph, stream), kInvalidHandle);
  EXPECT_EQ(api().graph_destroy(graph), kInvalidHandle);
}

}  // namespace
}  // namespace lockstep::cuda::sim
