// Recorded work: it runs at each launch, in the order of its queue, and nobody else gets its
// memory.
#include "core/device/capture.h"

#include <cstdlib>

#include <gmock/gmock.h>

#include "core/device/allocator.h"
#include "core/nn/random.h"
#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr int kTries = 40;
constexpr int64_t kSize = 3000;

class CudaCapture : public CudaTest {};

Tensor filled(double value) { return Tensor::full({kSize}, value, DType::f32, kCuda); }
// y = 2·x + 1, with memory in between.
void compute(const Tensor& x, const Tensor& y) {
  const Tensor twice = x.clone();
  kernels(kCuda).axpby(current_queue(kCuda), DType::f32, kSize, 1.0f, x.data<float>(), 1.0f,
                       twice.data<float>());
  const Tensor one = filled(1);
  kernels(kCuda).axpby(current_queue(kCuda), DType::f32, kSize, 1.0f, one.data<float>(), 1.0f,
                       twice.data<float>());
  y.copy_(twice);
}

TEST_F(CudaCapture, RecordedWorkRunsAtEachLaunchWithWhatIsInMemoryThen) {
  const Tensor x = filled(5), y = filled(-1);
  Capture capture(kCuda);
  compute(x, y);
  EXPECT_TRUE(Capture::active());
  const Graph graph = capture.end();
  EXPECT_FALSE(Capture::active());
  EXPECT_THAT(y.to_vector<float>(), Each(-1.0f)) << "recording runs nothing";
  for (int i = 0; i < kTries; ++i) {
    x.fill_(i);
    graph.launch();
    EXPECT_THAT(y.to_vector<float>(), Each(2.0f * static_cast<float>(i) + 1));
  }
}

// What the work frees is used again by its own launches alone: tensors that are made later would
// else be written over.
TEST_F(CudaCapture, NobodyElseGetsItsMemory) {
  const Tensor x = filled(5), y = filled(-1);
  Capture capture(kCuda);
  compute(x, y);
  const Graph graph = capture.end();
  std::vector<Tensor> others;
  for (int i = 0; i < 8; ++i) others.push_back(filled(100 + i));
  allocator(kCuda).release_cached();
  for (int i = 0; i < 8; ++i) others.push_back(filled(108 + i));
  graph.launch();
  EXPECT_THAT(y.to_vector<float>(), Each(11.0f));
  for (size_t i = 0; i < others.size(); ++i)
    EXPECT_THAT(others[i].to_vector<float>(), Each(100.0f + static_cast<float>(i)));
}

TEST_F(CudaCapture, ItsMemoryComesBackWithTheGraph) {
  const auto reserved = [] {
    allocator(kCuda).release_cached();
    return allocator(kCuda).stats().reserved_bytes;
  };
  const Tensor x = Tensor::zeros({1 << 20}, DType::f32, kCuda);
  const int64_t before = reserved();
  {
    Capture capture(kCuda);
    x.clone();
    const Graph graph = capture.end();
    EXPECT_GE(reserved(), before + (4 << 20));
    graph.launch();
  }
  EXPECT_EQ(reserved(), before);
}

TEST_F(CudaCapture, SaysWhatCannotBeAPart) {
  const Tensor x = filled(1), host = Tensor::pinned({kSize}, DType::f32, kCuda);
  const auto prevented_by = [](const auto& work) {
    Capture capture(kCuda);
    work();
    EXPECT_THAT([&] { capture.end(); }, ThrowsMessage<UsageError>(HasSubstr("cannot be a graph")));
    return capture.prevented();
  };
  EXPECT_THAT(prevented_by([&] { x.copy_later(host); }), HasSubstr("the host and a device"));
  const Queue other = Queue::create(kCuda);
  EXPECT_THAT(prevented_by([&] { Event::record(current_queue(kCuda)).wait(other); }),
              HasSubstr("an event"));
  EXPECT_THAT(prevented_by([&] { Event::record(other).wait(current_queue(kCuda)); }),
              HasSubstr("an event"));
  EXPECT_THAT(prevented_by([&] {
                const nn::RandomScope random(1, 2, 3);
                nn::RandomScope::key("drop", &random);
              }),
              HasSubstr("dropout"));
  // Afterwards the device works as before.
  x.fill_(3);
  EXPECT_THAT(x.to_vector<float>(), Each(3.0f));
}

TEST_F(CudaCapture, AnEventWithinIsNoPointForOthers) {
  Event within;
  Capture capture(kCuda);
  within = Event::record(current_queue(kCuda));
  const Graph graph = capture.end();
  for (const auto& use :
       std::vector<std::function<void()>>{[&] { within.done(); }, [&] { within.synchronize(); },
                                          [&] { within.wait(current_queue(kCuda)); }})
    EXPECT_THAT(use, ThrowsMessage<UsageError>(HasSubstr("work that was recorded as a graph")));
}

TEST_F(CudaCapture, AWaitForTheDeviceIsAnError) {
  const Tensor x = filled(1);
  Capture capture(kCuda);
  x.fill_(2);
  EXPECT_THROW(current_queue(kCuda).synchronize(), EnvironmentError);
}

TEST_F(CudaCapture, IsOfOneThreadAndNotNested) {
  Capture capture(kCuda);
  EXPECT_THAT([] { Capture inner(kCuda); },
              ThrowsMessage<UsageError>(HasSubstr("records work already")));
  EXPECT_THAT([] { Capture inner(kCpu); }, ThrowsMessage<UsageError>(HasSubstr("got a CPU")));
  EXPECT_THAT([] { Graph().launch(); }, ThrowsMessage<UsageError>(HasSubstr("never recorded")));
}

}  // namespace
}  // namespace lockstep::testing
