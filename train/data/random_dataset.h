// Data without a file. For gpt: uniform random tokens, for measurements. For mlp: random features
// with classes from a fixed random linear map, so that there is something to learn.
#pragma once

#include <vector>

#include "train/data/dataset.h"

namespace lockstep::train {

class RandomDataset final : public Dataset {
 public:
  explicit RandomDataset(const Config& config);

  Batch get(int64_t step, int64_t micro) const override;
  Batch evaluation(int64_t index) const override;
  Batch blank() const override { return make(0, 0, 0, 0); }
  using Dataset::identity;
  std::string identity(const std::atomic<bool>&) const override { return sampled_identity(); }
  std::string sampled_identity() const override;

 private:
  Batch make(uint64_t seed, uint32_t step, int64_t micro, uint32_t site) const;
  void fill_tokens(const struct RowStream& stream, int32_t* inputs, int32_t* targets) const;
  int32_t fill_features(const struct RowStream& stream, float* features) const;

  bool tokens_;
  uint64_t seed_;
  int64_t micro_batch_, block_, vocab_;
  std::vector<float> teacher_;  // mlp: [vocab, block]
};

}  // namespace lockstep::train
