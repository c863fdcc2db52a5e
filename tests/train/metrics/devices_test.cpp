// What devices can reach, and how a run names them.
#include "train/metrics/devices.h"

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "core/device/kernels.h"

namespace lockstep::train {
namespace {

using testing::HasSubstr;

TEST(Devices, PeaksFollowTheModelAndAreDense) {
  const auto tera = [](std::string_view model, DType compute = DType::bf16) {
    return peak_flops_of(model, compute).value_or(0) / 1e12;
  };
  EXPECT_DOUBLE_EQ(tera("NVIDIA H100 80GB HBM3"), 989.4);
  EXPECT_DOUBLE_EQ(tera("NVIDIA H100 PCIe"), 756.5);
  EXPECT_DOUBLE_EQ(tera("NVIDIA H100 NVL"), 835.5);
  EXPECT_DOUBLE_EQ(tera("NVIDIA H200"), 989.4);
  EXPECT_DOUBLE_EQ(tera("NVIDIA H20"), 148);
  EXPECT_DOUBLE_EQ(tera("NVIDIA A100-SXM4-80GB"), 312);
  EXPECT_DOUBLE_EQ(tera("NVIDIA A100-SXM4-80GB", DType::f32), 19.5);
  EXPECT_DOUBLE_EQ(tera("NVIDIA B200"), 2250);
  EXPECT_DOUBLE_EQ(tera("NVIDIA GB200"), 2500);
  EXPECT_DOUBLE_EQ(tera("NVIDIA L40S"), 362);
  for (const char* unknown : {"simulated GPU", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA A1000",
                              "NVIDIA H100 96GB", ""})
    EXPECT_EQ(peak_flops_of(unknown, DType::bf16), std::nullopt) << unknown;
}

TEST(Devices, ThePeakIsOfAllAndNotKnownIfOneIsNot) {
  Devices devices{.ranks = 4, .models = {"NVIDIA H200", "NVIDIA A100-SXM4-80GB"}};
  EXPECT_DOUBLE_EQ(peak_flops(devices, DType::bf16).value_or(0), 1301.4e12);
  devices.models.emplace_back("simulated GPU");
  EXPECT_EQ(peak_flops(devices, DType::bf16), std::nullopt);
  EXPECT_GT(peak_flops({.ranks = 1}, DType::f32).value_or(0), 0);
}

TEST(Devices, AreNamedForPeople) {
  EXPECT_EQ((Devices{.ranks = 2, .models = {"A", "A"}}).text(), "2 x A");
  EXPECT_EQ((Devices{.ranks = 4, .models = {"A", "B", "A"}}).text(),
            "2 x A, 1 x B, shared by 4 ranks");
  const auto group = comm::create("local", std::make_shared<comm::HashStore>(), 0, 1);
  const Devices mine = devices_of(*group);
  EXPECT_TRUE(mine.models.empty());
  EXPECT_EQ(mine.text(), "cpu (" + std::string(cpu_instruction_set()) + ")");
}

}  // namespace
}  // namespace lockstep::train
