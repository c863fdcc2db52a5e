// The graphs that attention builds, finalised by cuDNN for devices that are not there. Shapes are
// those of the shipped configs and of GPT-2 124M. Needs cuDNN, and no driver.
#include <algorithm>
#include <filesystem>
#include <vector>

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "core/device/cuda/toolkit/cudnn/attention_graph.h"
#include "core/device/cuda/toolkit/cudnn/plan.h"
#include "tests/core/device/cuda/toolkit/cudnn/described_devices.h"
#include "tests/support/error_of.h"
#include "train/config/config.h"
#include "train/models/factory.h"

namespace lockstep::testing {
namespace {

using cuda::AttentionPass;
using cuda::AttentionShape;
using cuda::cudnn::DeviceDescription;
using cuda::cudnn::Plan;

AttentionShape packed(int64_t batch, int64_t time, int64_t heads, int64_t kv_heads, int64_t dim,
                      DType dtype = DType::bf16) {
  const int64_t width = (heads + 2 * kv_heads) * dim;
  return {batch, time, heads, kv_heads, dim, dtype, time * width, width, dim, true};
}

std::vector<AttentionShape> shapes_of_configs() {
  std::vector<AttentionShape> shapes;
  for (const auto& entry : std::filesystem::directory_iterator(CONFIGS)) {
    train::Config config = train::load_config(entry.path().string());
    config.train.precision = train::Precision::bf16;
    if (const auto args = train::attention_of(config)) shapes.push_back(cuda::shape_of(*args));
  }
  std::sort(shapes.begin(), shapes.end());
  return shapes;
}

const AttentionShape kGpt2 = packed(8, 1024, 12, 12, 64);
const AttentionShape kGrouped = packed(8, 1024, 12, 4, 64);

Plan build(AttentionPass pass, const AttentionShape& shape, const DescribedDevice& device) {
  return attention_plan(pass, shape, DeviceDescription::from_json(device.json()));
}

// A driver's library is loaded first where there is one; cuDNN finds what is loaded.
void load_driver() {
  if (dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL)) return;
  ASSERT_NE(dlopen(NO_DRIVER, RTLD_NOW | RTLD_GLOBAL), nullptr) << dlerror();
}

class CudnnPlans : public ::testing::TestWithParam<const DescribedDevice*> {
 protected:
  void SetUp() override {
    load_driver();
    if (!cuda::cudnn::why_missing().empty()) GTEST_SKIP() << cuda::cudnn::why_missing();
  }
};

// Both passes have a plan, and its text gives the same plan.
void expect_plans(const AttentionShape& shape, const DescribedDevice& device) {
  const auto description = DeviceDescription::from_json(device.json());
  for (const AttentionPass pass : {AttentionPass::forward, AttentionPass::backward}) {
    SCOPED_TRACE(text_of(pass, shape));
    const Plan plan = build(pass, shape, device);
    const Plan again = Plan::read(plan.text(), description);
    EXPECT_EQ(again.workspace(), plan.workspace());
    EXPECT_EQ(again.text(), plan.text());
  }
}

TEST_P(CudnnPlans, OfTheConfigs) {
  const auto shapes = shapes_of_configs();
  EXPECT_GE(shapes.size(), 4u);
  for (const AttentionShape& shape : shapes) expect_plans(shape, *GetParam());
}

TEST_P(CudnnPlans, OfGpt2) { expect_plans(kGpt2, *GetParam()); }

TEST_P(CudnnPlans, OfGroupsOfHeads) { expect_plans(kGrouped, *GetParam()); }

TEST_P(CudnnPlans, OfHalfPrecision) {
  expect_plans(packed(2, 256, 6, 6, 64, DType::f16), *GetParam());
}

// Deterministic gradients take memory for each pair of a query and a key; the forward pass takes
// none.
TEST_P(CudnnPlans, MemoryOfThePasses) {
  const int64_t pairs = kGpt2.batch * kGpt2.heads * kGpt2.time * kGpt2.time;
  EXPECT_LE(build(AttentionPass::forward, kGpt2, *GetParam()).workspace(), 1 << 20);
  const int64_t backward = build(AttentionPass::backward, kGpt2, *GetParam()).workspace();
  RecordProperty("backward_workspace", std::to_string(backward));
  EXPECT_GE(backward, 2 * pairs);
  EXPECT_LE(backward, 8 * pairs + (1 << 20));
}

// The kernels are those for the device, not for an older one.
TEST_P(CudnnPlans, KernelsForTheDevice) {
  const std::string architecture = str("sdpa_sm", GetParam()->version / 10, "_flash");
  for (const AttentionPass pass : {AttentionPass::forward, AttentionPass::backward})
    EXPECT_NE(build(pass, kGpt2, *GetParam()).text().find(architecture), std::string::npos)
        << text_of(pass, kGpt2) << " on " << GetParam()->name;
}

TEST_P(CudnnPlans, TextThatIsNoPlan) {
  const auto device = DeviceDescription::from_json(GetParam()->json());
  for (const char* text : {"", "{}", "{\"version\": 1}", "plan"})
    EXPECT_NE(test::error_of([&] { Plan::read(text, device); }).find("[cudnn] reading a plan"),
              std::string::npos)
        << text;
}

TEST_P(CudnnPlans, ADeviceThatLacksSomething) {
  EXPECT_NE(test::error_of([] {
              DeviceDescription::from_json("{}");
            }).find("[cudnn] describing a device"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Described, CudnnPlans, ::testing::Values(&kA100, &kH200, &kB200),
                         [](const auto& tested) { return str("sm", tested.param->version / 10); });

}  // namespace
}  // namespace lockstep::testing
