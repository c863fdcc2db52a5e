#include "train/data/text_dataset.h"

#include <cmath>
#include <vector>

#include "core/base/error.h"
#include "core/base/philox.h"

namespace lockstep::train {
namespace {

// Sites of the data order's random streams. Nothing else draws random numbers at these sites.
constexpr uint32_t kTrainSite = 0xDA7A0001u;
constexpr uint32_t kEvaluationSite = 0xDA7A0002u;
// Evaluations compare runs of different seeds, so all of them use the same samples.
constexpr uint64_t kEvaluationSeed = 0;

// Returns a number in [0, count), from 64 random bits.
int64_t below(int64_t count, const RandomKey& key) {
  const auto bits = philox(key, 0);
  const uint64_t random = (static_cast<uint64_t>(bits[0]) << 32) | bits[1];
  return static_cast<int64_t>(
      (static_cast<unsigned __int128>(random) * static_cast<uint64_t>(count)) >> 64);
}

}  // namespace

TextDataset::TextDataset(const Config& config)
    : corpus_(config.data.path),
      seed_(static_cast<uint64_t>(config.run.seed)),
      micro_batch_(config.train.micro_batch),
      block_(config.model.block),
      vocab_(config.model.vocab),
      validation_begin_(corpus_.bytes() -
                        static_cast<int64_t>(std::floor(static_cast<double>(corpus_.bytes()) *
                                                        config.data.validation))) {
  check(corpus_.bytes() > 0, "data.path '", config.data.path,
        "' is empty: ", advice_on_text(config.data.path));
  const int64_t shorter = std::min(validation_begin_, corpus_.bytes() - validation_begin_);
  check(shorter > block_, "data.path '", config.data.path, "' is too short: of its ",
        corpus_.bytes(), " bytes ", validation_begin_, " are for training and ",
        corpus_.bytes() - validation_begin_, " for validation, and each part needs at least ",
        block_ + 1,
        " (model.block + 1): use a longer text, a smaller model.block or another data.validation");
}

Batch TextDataset::get(int64_t step, int64_t micro) const {
  const int64_t choices = validation_begin_ - block_;
  return make([&](int64_t row) {
    const int64_t sample = micro * micro_batch_ + row;  // in the global batch
    return below(choices,
                 {seed_, static_cast<uint32_t>(step), static_cast<uint32_t>(sample), kTrainSite});
  });
}

Batch TextDataset::evaluation(int64_t index) const {
  const int64_t choices = corpus_.bytes() - validation_begin_ - block_;
  return make([&](int64_t row) {
    const int64_t sample = index * micro_batch_ + row;
    return validation_begin_ +
           below(choices, {kEvaluationSeed, 0, static_cast<uint32_t>(sample), kEvaluationSite});
  });
}

std::string TextDataset::identity(const std::atomic<bool>& stop) const {
  return str("text, ", corpus_.bytes(), " bytes, xxh3 ", corpus_.hash(stop));
}
std::string TextDataset::sampled_identity() const {
  return str("text, ", corpus_.bytes(), " bytes, ", corpus_.sampled_hash());
}

Batch TextDataset::blank() const {
  const Shape shape{micro_batch_, block_};
  return {Tensor::zeros(shape, DType::i32), Tensor::zeros(shape, DType::i32)};
}

// Device kernels cannot report a token outside of the vocabulary, so check here. `bytes` are those
// of a sample that begins at `offset`.
void TextDataset::check_tokens(const uint8_t* bytes, int64_t offset) const {
  if (vocab_ > 255) return;
  for (int64_t i = 0; i <= block_; ++i)
    if (bytes[i] >= vocab_)
      throw EnvironmentError(str("data.path: ", corpus_.place_of(offset + i), " is token ",
                                 static_cast<int>(bytes[i]), ", but the model has ", vocab_,
                                 " tokens: set model.vocab to 256 or more"));
}

template <typename Offset>
Batch TextDataset::make(const Offset& offset) const {
  Batch batch{Tensor::empty({micro_batch_, block_}, DType::i32),
              Tensor::empty({micro_batch_, block_}, DType::i32)};
  auto* inputs = batch.inputs.data<int32_t>();
  auto* targets = batch.targets.data<int32_t>();
  std::vector<uint8_t> bytes(static_cast<size_t>(block_) + 1);
  for (int64_t row = 0; row < micro_batch_; ++row) {
    const int64_t begin = offset(row);
    corpus_.copy(begin, block_ + 1, bytes.data());
    check_tokens(bytes.data(), begin);
    for (int64_t t = 0; t < block_; ++t) {
      inputs[row * block_ + t] = bytes[static_cast<size_t>(t)];
      targets[row * block_ + t] = bytes[static_cast<size_t>(t) + 1];
    }
  }
  return batch;
}

}  // namespace lockstep::train
