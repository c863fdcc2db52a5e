#include "train/data/random_dataset.h"

#include "core/base/error.h"
#include "core/base/philox.h"

namespace lockstep::train {

// The stream of random numbers for one sample.
struct RowStream {
  RandomKey key;
  uint32_t operator()(int64_t index) const {
    return philox(key, static_cast<uint32_t>(index / 4))[static_cast<size_t>(index % 4)];
  }
};

namespace {

constexpr uint32_t kTrainSite = 0xDA7A0003u;
constexpr uint32_t kEvaluationSite = 0xDA7A0004u;
constexpr uint32_t kTeacherSite = 0xDA7A0005u;

// Uniform with mean 0 and variance 1. Exact in float, so it is equal on every machine.
float centred(uint32_t bits) { return (uniform_from_bits(bits) - 0.5f) * 3.4641016f; }

}  // namespace

RandomDataset::RandomDataset(const Config& config)
    : tokens_(config.model.is_language_model()),
      seed_(static_cast<uint64_t>(config.run.seed)),
      micro_batch_(config.train.micro_batch),
      block_(config.model.block),
      vocab_(config.model.vocab) {
  if (tokens_) return;
  // The same teacher for all seeds, so all runs and evaluations solve the same task.
  const RowStream stream{{0, 0, 0, kTeacherSite}};
  teacher_.resize(static_cast<size_t>(vocab_ * block_));
  for (size_t i = 0; i < teacher_.size(); ++i)
    teacher_[i] = centred(stream(static_cast<int64_t>(i)));
}

Batch RandomDataset::get(int64_t step, int64_t micro) const {
  return make(seed_, static_cast<uint32_t>(step), micro, kTrainSite);
}
Batch RandomDataset::evaluation(int64_t index) const { return make(0, 0, index, kEvaluationSite); }
std::string RandomDataset::sampled_identity() const {
  return tokens_ ? "random tokens" : "random features";
}

Batch RandomDataset::make(uint64_t seed, uint32_t step, int64_t micro, uint32_t site) const {
  const Shape square{micro_batch_, block_};
  Batch batch{Tensor::empty(square, tokens_ ? DType::i32 : DType::f32),
              Tensor::empty(tokens_ ? square : Shape{micro_batch_}, DType::i32)};
  auto* targets = batch.targets.data<int32_t>();
  for (int64_t row = 0; row < micro_batch_; ++row) {
    const RowStream stream{{seed, step, static_cast<uint32_t>(micro * micro_batch_ + row), site}};
    if (tokens_)
      fill_tokens(stream, batch.inputs.data<int32_t>() + row * block_, targets + row * block_);
    else
      targets[row] = fill_features(stream, batch.inputs.data<float>() + row * block_);
  }
  return batch;
}

void RandomDataset::fill_tokens(const RowStream& stream, int32_t* inputs, int32_t* targets) const {
  for (int64_t t = 0; t <= block_; ++t) {
    const auto token = static_cast<int32_t>(
        (static_cast<uint64_t>(stream(t)) * static_cast<uint64_t>(vocab_)) >> 32);
    if (t < block_) inputs[t] = token;
    if (t > 0) targets[t - 1] = token;
  }
}

int32_t RandomDataset::fill_features(const RowStream& stream, float* features) const {
  for (int64_t i = 0; i < block_; ++i) features[i] = centred(stream(i));
  int64_t best = 0;
  double best_score = 0;
  for (int64_t c = 0; c < vocab_; ++c) {
    double score = 0;
    for (int64_t i = 0; i < block_; ++i)
      score += static_cast<double>(features[i]) *
               static_cast<double>(teacher_[static_cast<size_t>(c * block_ + i)]);
    if (c == 0 || score > best_score) {
      best = c;
      best_score = score;
    }
  }
  return static_cast<int32_t>(best);
}

}  // namespace lockstep::train
