// Every strategy trains to the bits of one rank: modes × ranks × precision × accumulation ×
// clipping × recomputation, as the trainer runs them. Ranks are threads. What happens between
// processes is in tests/e2e/same_bits*.sh.
#include <map>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "comm/local/hash_store.h"
#include "core/base/parallel.h"
#include "tests/train/overrides.h"
#include "train/run/trainer.h"

namespace lockstep::train {
namespace {

constexpr int kSteps = 3;
// Far below the norms of this model's gradients.
constexpr const char* kClip = "0.125";

// Dropout, a head tied to the embedding, and weights of more than one block of the gradient norm,
// so that slices cut them.
constexpr const char* kModel =
    "data: {kind: random}\n"
    "model: {kind: gpt, layers: 2, heads: 2, dim: 24, block: 4, vocab: 48, dropout: 0.1}\n"
    "train: {steps: 3, micro_batch: 1, eval_batches: 3}\n"
    "optim: {kind: adamw, lr: 0.01, weight_decay: 0.1, schedule: {kind: cosine, warmup: 1}}\n";

// What a user sees of one rank's run, to the last bit: losses, norms, an evaluation between steps,
// the hash of the weights.
std::string outcome(const Config& config, const std::shared_ptr<comm::Store>& store, int rank,
                    int ranks) try {
  set_num_threads(1);
  Trainer trainer(config, comm::create("local", store, rank, ranks));
  std::ostringstream seen;
  seen << std::hexfloat;
  for (int step = 1; step <= kSteps; ++step) {
    const StepReport report = trainer.step();
    seen << "loss " << report.loss << " norm " << report.grad_norm << '\n';
    if (step == 2) seen << "evaluation " << trainer.evaluate() << '\n';
  }
  seen << "weights sha256 " << trainer.weights_sha256();
  return seen.str();
} catch (const std::exception& e) {
  return e.what();
}

// By rank.
std::vector<std::string> train(const Overrides& overrides, int ranks) {
  const Config config = parse_config(kModel, "test", overrides);
  const auto store = std::make_shared<comm::HashStore>();
  std::vector<std::string> outcomes(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back(
        [&, r] { outcomes[static_cast<size_t>(r)] = outcome(config, store, r, ranks); });
  for (auto& thread : threads) thread.join();
  return outcomes;
}

// All that so many ranks can be, but for what is full sharding by another name.
std::vector<Overrides> strategies(int ranks) {
  std::vector<Overrides> all{{"parallel.strategy=ddp"}};
  const auto fsdp = [&](const std::string& shard, Overrides more = {}) {
    more.insert(more.begin(), {"parallel.strategy=fsdp", "parallel.shard=" + shard});
    all.push_back(more);
  };
  for (const char* shard : {"full", "grad", "optim"}) fsdp(shard);
  for (int n = 1; n < ranks; ++n) {
    if (ranks % n != 0) continue;
    fsdp("hybrid", {str("parallel.mesh=[", ranks / n, ", ", n, "]")});
    fsdp(std::to_string(n));
  }
  return all;
}

class Strategies : public testing::TestWithParam<std::tuple<int, std::string>> {};

TEST_P(Strategies, TrainToTheBitsOfOneRank) {
  const auto [ranks, precision] = GetParam();
  for (const int micro_batches : {ranks, 4 * ranks}) {
    std::map<std::string, std::string> references;
    for (const char* clip : {"0", kClip}) {
      const Overrides result{"train.precision=" + precision,
                             "train.global_batch=" + std::to_string(micro_batches),
                             std::string("train.grad_clip=") + clip};
      const std::string want = references[clip] = train(result, 1).front();
      ASSERT_NE(want.find("weights sha256"), std::string::npos) << want;
      for (const Overrides& strategy : strategies(ranks))
        for (const char* recompute : {"none", "blocks"}) {
          Overrides overrides = result;
          overrides.push_back(std::string("train.recompute=") + recompute);
          overrides.insert(overrides.end(), strategy.begin(), strategy.end());
          const auto outcomes = train(overrides, ranks);
          for (size_t rank = 0; rank < outcomes.size(); ++rank)
            EXPECT_EQ(outcomes[rank], want)
                << "on rank " << rank << " of " << ranks << ": " << text(overrides);
        }
    }
    EXPECT_NE(references["0"], references[kClip]) << "clipping at " << kClip << " changes nothing";
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Strategies,
                         testing::Combine(testing::Values(1, 2, 3, 4, 8),
                                          testing::Values<std::string>("fp32", "bf16")),
                         [](const auto& test) {
                           return str(std::get<1>(test.param), "_", std::get<0>(test.param));
                         });

}  // namespace
}  // namespace lockstep::train
