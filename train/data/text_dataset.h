// Byte-level tokens of a text. Every sample is a random stretch of block + 1 bytes.
#pragma once

#include "train/data/corpus.h"
#include "train/data/dataset.h"

namespace lockstep::train {

class TextDataset final : public Dataset {
 public:
  explicit TextDataset(const Config& config);

  Batch get(int64_t step, int64_t micro) const override;
  Batch evaluation(int64_t index) const override;
  Batch blank() const override;
  using Dataset::identity;
  std::string identity(const std::atomic<bool>& stop) const override;
  std::string sampled_identity() const override;
  int64_t bytes() const override { return corpus_.bytes(); }
  std::string stamp() const override { return corpus_.stamp(); }
  bool settled() const override { return corpus_.settled(); }
  void accept_files() override { corpus_.accept_files(); }

  // The first byte of the part that is kept for evaluation.
  int64_t validation_begin() const { return validation_begin_; }

 private:
  // Samples whose first bytes lie in [begin, end - block). offset(i) is for row i.
  template <typename Offset>
  Batch make(const Offset& offset) const;

  void check_tokens(const uint8_t* bytes, int64_t offset) const;

  Corpus corpus_;
  uint64_t seed_;
  int64_t micro_batch_, block_, vocab_;
  int64_t validation_begin_;
};

}  // namespace lockstep::train
