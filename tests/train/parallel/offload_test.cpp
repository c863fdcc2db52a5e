#include "train/parallel/offload.h"

#include <filesystem>
#include <optional>

#include <gmock/gmock.h>

#include "core/optim/optimizer.h"
#include "tests/support/temp_dir.h"

namespace lockstep::train {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

int64_t used(MemoryCategory category) {
  return allocator(kCpu).stats().used_bytes[static_cast<size_t>(category)];
}

TEST(Offload, StatesOfAnOptimizerLieInFilesThatLeaveNothingBehind) {
  const test::TempDir dir;
  const std::string& folder = dir.path();
  const Parameter p("p", Tensor::full({1000}, 1.0f));
  const auto steps = [&](bool offload) {
    const Parameter copy("p", p.data().clone());
    std::unique_ptr<optim::Optimizer> optimizer;
    {
      std::optional<StorageScope> scope;
      if (offload) scope.emplace([&](size_t bytes) { return file_memory(folder, bytes); });
      const int64_t before = used(MemoryCategory::offloaded),
                    memory = used(MemoryCategory::optimizer);
      optimizer = optim::make_adamw({copy});
      EXPECT_EQ(used(MemoryCategory::offloaded) - before, offload ? 8000 : 0);
      EXPECT_EQ(used(MemoryCategory::optimizer) - memory, offload ? 0 : 8000);
    }
    for (int i = 1; i <= 3; ++i) {
      copy.set_grad_buffer(Tensor::full({1000}, static_cast<float>(i)));
      copy.mark_grad_valid();
      optimizer->step(0.1f);
    }
    return copy.data().to_vector<float>();
  };
  EXPECT_EQ(steps(true), steps(false));
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(Offload, StartsAtZeroAndDoesNotCountAgainstTheLimit) {
  const test::TempDir dir;
  const MemoryStats before = allocator(kCpu).stats();
  allocator(kCpu).set_limit(before.reserved_bytes + before.external_bytes + (1 << 16));
  {
    const Tensor t = Tensor::wrap(file_memory(dir.path(), 1 << 20), {1 << 18}, DType::f32);
    allocator(kCpu).set_limit(0);
    EXPECT_THAT(t.to_vector<float>(), Each(0.0f));
  }
  EXPECT_EQ(used(MemoryCategory::offloaded),
            before.used_bytes[static_cast<size_t>(MemoryCategory::offloaded)]);
}

TEST(Offload, SaysWhichFolderFailed) {
  EXPECT_THAT(
      [] { file_memory("/nonexistent/folder", 100); },
      ThrowsMessage<EnvironmentError>(AllOf(HasSubstr("100 bytes of state in /nonexistent/folder"),
                                            HasSubstr("No such file"))));
}

}  // namespace
}  // namespace lockstep::train
