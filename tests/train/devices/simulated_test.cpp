// How often a training run waits for its device, how much work it queues there, and that the order
// in which devices run their queues does not matter to groups over NCCL.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <limits>

#include <gmock/gmock.h>
#include <unistd.h>

#include "comm/local/hash_store.h"
#include "core/base/clock.h"
#include "core/base/parallel.h"
#include "core/device/cuda/sim/launch.h"
#include "core/device/cuda/sim/seed.h"
#include "core/device/cuda/sim/statistics.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "tests/support/error_of.h"
#include "tests/support/run_ranks.h"
#include "tests/train/devices/device_run.h"
#include "train/models/gpt.h"
#include "train/run/trainer.h"

namespace lockstep::train {
namespace {

using ::testing::AllOf, ::testing::HasSubstr;

[[maybe_unused]] const bool kSimulated = lockstep::test::simulate_devices(2);
constexpr Device kCuda{DeviceType::cuda, 0};

struct Queued {
  int64_t launches, waits;
};
Queued queued_by(const std::function<void()>& work, int device = 0) {
  const cuda::sim::Statistics before = cuda::sim::statistics(device);
  work();
  const cuda::sim::Statistics after = cuda::sim::statistics(device);
  return {after.launches - before.launches, after.host_waits - before.host_waits};
}

Config small(const std::vector<std::string>& overrides = {}) {
  return parse_config(
      "data: {kind: random}\n"
      "model: {kind: gpt, layers: 2, heads: 2, dim: 8, block: 4, vocab: 16}\n"
      "train: {steps: 9, global_batch: 8, micro_batch: 4, eval_batches: 2}\n",
      "test", overrides);
}
std::unique_ptr<Trainer> trainer_of(const Config& config) {
  return std::make_unique<Trainer>(config, comm::create("local", nullptr, 0, 1, {.device = kCuda}));
}

TEST(SimulatedRun, WaitsForItsDeviceOnceAStep) {
  for (const char* how : {"train.capture=off", "train.capture=auto", "parallel.strategy=fsdp",
                          "train.precision=bf16", "optim.kind=sgd", "model.kind=llama"}) {
    SCOPED_TRACE(how);
    const auto trainer = trainer_of(small({how}));
    for (int i = 0; i < 5; ++i) trainer->step();
    EXPECT_EQ(queued_by([&] { trainer->step(); }).waits, 1);
    EXPECT_EQ(queued_by([&] { trainer->evaluate(); }).waits, 1);
  }
}

// But for copies: the batches go to their places.
TEST(SimulatedRun, LaunchesARecordedStepAsAWhole) {
  const auto trainer = trainer_of(small());
  for (int i = 0; i < 4; ++i) trainer->step();
  EXPECT_EQ(queued_by([&] { trainer->step(); }).launches, 1);
}

// What a recorded step keeps counts for nothing when an evaluation needs memory.
TEST(SimulatedRun, EvaluatesWithTheMemoryOfARecordedStep) {
  const auto trainer = trainer_of(small());
  for (int i = 0; i < 4; ++i) trainer->step();
  Allocator& memory = allocator(kCuda);
  memory.release_cached();
  memory.set_limit(memory.stats().reserved_bytes);
  EXPECT_NO_THROW(trainer->evaluate());
  memory.set_limit(0);
  trainer->step();
  EXPECT_EQ(queued_by([&] { trainer->step(); }).launches, 1);
}

// A step's launches beside forward and backward do not depend on the number of parameters.
TEST(SimulatedRun, UpdatesAllParametersInOneLaunch) {
  for (const char* kind : {"adamw", "adam", "sgd"}) {
    const auto launches = [&](int parameters) {
      std::vector<Parameter> all;
      for (int i = 0; i < parameters; ++i) {
        all.emplace_back(str("p", i), Tensor::zeros({10 + i}, DType::f32, kCuda));
        all.back().set_grad_buffer(Tensor::full({10 + i}, 1.0, DType::f32, kCuda));
        all.back().mark_grad_valid();
      }
      const std::string_view which = kind;
      const auto optimizer = which == "sgd"    ? optim::make_sgd(all, {.momentum = 0.9f})
                             : which == "adam" ? optim::make_adam(all)
                                               : optim::make_adamw(all);
      optim::GradNorm norm(all, all, kCuda);
      return queued_by([&] {
               norm.blocks().sums();
               optimizer->step(0.1f);
             })
          .launches;
    };
    EXPECT_EQ(launches(1), 2) << kind;
    EXPECT_EQ(launches(50), 2) << kind;
  }
}

// ---- launches of a block of GPT-2 ----

struct Passes {
  int64_t forward, backward;
};
Passes launches_of(int64_t layers, DType compute) {
  const DeviceScope scope(kCuda);
  Gpt model({.layers = layers,
             .heads = 2,
             .dim = 16,
             .block = 8,
             .vocab = 32,
             .activation = UnaryOp::gelu_tanh});
  model.initialize(1);
  const Tensor tokens = Tensor::zeros({2, 8}, DType::i32, kCuda);
  const ops::PrecisionScope precision(compute);
  Passes passes{};
  // The first round makes gradients and converts weights; the second one counts.
  for (int round = 0; round < 2; ++round) {
    Variable loss;
    passes.forward =
        queued_by([&] { loss = ops::cross_entropy(model(Variable(tokens)), tokens); }).launches;
    passes.backward = queued_by([&] { loss.backward(); }).launches;
    for (const Parameter& p : model.parameters()) p.zero_grad();
  }
  return passes;
}

// Forward, 10: two norms, four products with their biases, attention, GELU, two sums. Backward, 12:
// two products a linear layer, one of them with the sum for its bias (8); attention, two norms,
// GELU. Attention of f32, which no library has, takes two more there.
TEST(SimulatedRun, ABlockTakesFewLaunchesAPass) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(compute);
    const Passes two = launches_of(2, compute), three = launches_of(3, compute);
    EXPECT_LE(three.forward - two.forward, 10);
    EXPECT_LE(three.backward - two.backward, compute == DType::f32 ? 14 : 12);
  }
}

// ---- ranks over NCCL ----

// Runs body(trainer, rank) on two ranks.
void over_nccl(const Config& config, const std::function<void(Trainer&, int rank)>& body) {
  const auto store = std::make_shared<comm::HashStore>();
  lockstep::test::run_threads(2, [&](int rank) {
    set_num_threads(1);
    const Device device{DeviceType::cuda, rank};
    Trainer trainer(config, comm::create("nccl", store, rank, 2, {.device = device}));
    body(trainer, rank);
    trainer.group().host().barrier().wait();
  });
}

const std::vector<const char*> kStrategies{"parallel.strategy=ddp", "parallel.strategy=fsdp"};

// The device waits for collectives, not the host.
TEST(SimulatedRun, WaitsForItsDeviceOnceAStepOverNcclToo) {
  for (const char* strategy : kStrategies)
    for (const char* how : {"train.precision=fp32", "train.precision=bf16"})
      over_nccl(small({strategy, how}), [&](Trainer& trainer, int rank) {
        for (int i = 0; i < 3; ++i) trainer.step();
        EXPECT_EQ(queued_by([&] { trainer.step(); }, rank).waits, 1)
            << strategy << ", " << how << ", rank " << rank;
      });
}

// The device stands still in the middle of the backward pass until the host has queued the
// optimizer, whose numbers it cannot know by then.
TEST(SimulatedRun, QueuesTheOptimizerBeforeItWaitsOverNcclToo) {
  for (const char* strategy : kStrategies) {
    const auto store = std::make_shared<comm::HashStore>();
    lockstep::test::run_threads(2, [&](int rank) {
      SCOPED_TRACE(str(strategy, ", rank ", rank));
      set_num_threads(1);
      const Device device{DeviceType::cuda, rank};
      Trainer trainer(small({strategy}), comm::create("nccl", store, rank, 2, {.device = device}));
      for (int i = 0; i < 3; ++i) trainer.step();
      const Tensor weight = trainer.state().front().values;
      // A host that waits too early is let go in the end.
      const auto too_early = std::make_shared<std::atomic<bool>>(false);
      const auto updated = [storage = weight.storage(), before = weight.storage()->version(),
                            too_early, limit = Clock::now() + std::chrono::seconds(10)] {
        if (storage->version() == before && Clock::now() >= limit) *too_early = true;
        return storage->version() != before || *too_early;
      };
      cuda::sim::enqueue("obstacle", current_queue(device).native(), updated, [] {});
      EXPECT_NO_THROW(trainer.step());
      EXPECT_FALSE(*too_early);
    });
  }
}

TEST(SimulatedRun, ReportsTheSameNumbersOverNcclAsOneRank) {
  for (const char* strategy : kStrategies) {
    const Config config = small({strategy, "train.grad_clip=0.1"});
    const auto alone = trainer_of(config);
    std::vector<StepReport> reports;
    for (int i = 0; i < 3; ++i) reports.push_back(alone->step());
    const std::string hash = alone->weights_sha256();
    over_nccl(config, [&](Trainer& trainer, int rank) {
      SCOPED_TRACE(str(strategy, ", rank ", rank));
      for (const StepReport& report : reports) {
        const StepReport mine = trainer.step({.save = rank == 1});
        EXPECT_EQ(mine.loss, report.loss);
        EXPECT_EQ(mine.grad_norm, report.grad_norm);
        EXPECT_TRUE(mine.save_agreed);
        EXPECT_FALSE(mine.stop_agreed);
      }
      EXPECT_EQ(trainer.weights_sha256(), hash);
    });
  }
}

// One rank's weight is infinite: so is the loss of its micro-batches.
TEST(SimulatedRun, AStepThatIsNotFiniteChangesNothingOverNccl) {
  over_nccl(small(), [&](Trainer& trainer, int rank) {
    trainer.step();
    const std::string before = trainer.weights_sha256();
    const Parameter weight = trainer.model().module->parameters().front();
    const std::vector<float> good = weight.data().to_vector<float>();
    if (rank == 1) weight.data().fill_(std::numeric_limits<double>::infinity());
    EXPECT_THAT(lockstep::test::error_of([&] { trainer.step(); }),
                HasSubstr("step 2: the loss is"));
    EXPECT_EQ(trainer.refused(), Refused::not_finite);
    weight.data().copy_(Tensor::from(good, weight.shape(), weight.device()));
    EXPECT_EQ(trainer.weights_sha256(), before);
    EXPECT_EQ(trainer.step().step, 2);
  });
}

// The host learns of it after the optimizer was queued, and its kernel must not have run.
TEST(SimulatedRun, AStepWithoutDataChangesNothingOverNccl) {
  const std::string path = testing::TempDir() + "/text_" + std::to_string(::getpid());
  for (const char* strategy : kStrategies) {
    std::ofstream(path, std::ios::binary) << std::string(4000, 'a');
    over_nccl(small({strategy, "data.kind=text", "model.vocab=256", str("data.path=", path),
                     "train.steps=100"}),
              [&](Trainer& trainer, int rank) {
                SCOPED_TRACE(str(strategy, ", rank ", rank));
                trainer.step();
                trainer.group().host().barrier().wait();
                if (rank == 0) std::filesystem::resize_file(path, 0);
                trainer.group().host().barrier().wait();
                trainer.step();  // its batch was read ahead
                const std::string before = trainer.weights_sha256();
                EXPECT_THAT(lockstep::test::error_of([&] { trainer.step(); }),
                            AllOf(HasSubstr("step 3"), HasSubstr("data.path")));
                EXPECT_EQ(trainer.refused(), Refused::no_data);
                EXPECT_EQ(trainer.steps_done(), 2);
                EXPECT_EQ(trainer.weights_sha256(), before);
              });
  }
  std::filesystem::remove(path);
}

TEST(SimulatedRun, HasTheSameBitsOverNcclInAnyOrderOfQueues) {
  const auto hash_of = [](const test::DeviceRun& run, int ranks, uint64_t seed) {
    cuda::sim::set_seed(seed);
    const auto store = std::make_shared<comm::HashStore>();
    std::vector<std::string> hashes(static_cast<size_t>(ranks));
    lockstep::test::run_threads(ranks, [&](int rank) {
      set_num_threads(1);
      hashes[static_cast<size_t>(rank)] = test::train(
          run, comm::create("nccl", store, rank, ranks, {.device = {DeviceType::cuda, rank}}));
    });
    for (const std::string& hash : hashes) EXPECT_EQ(hash, hashes[0]);
    return hashes[0];
  };
  const std::string reference = hash_of({}, 1, 1);
  for (const bool sharded : {false, true})
    for (uint64_t seed = 1; seed <= 4; ++seed)
      EXPECT_EQ(hash_of({.sharded = sharded}, 2, seed), reference)
          << (sharded ? "fsdp" : "ddp") << " with seed " << seed;
}

}  // namespace
}  // namespace lockstep::train
