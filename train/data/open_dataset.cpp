#include "core/base/error.h"
#include "train/data/dataset.h"
#include "train/data/random_dataset.h"
#include "train/data/text_dataset.h"

namespace lockstep::train {

std::unique_ptr<Dataset> open_dataset(const Config& config) {
  switch (config.data.kind) {
    case DataKind::text: return std::make_unique<TextDataset>(config);
    case DataKind::random: return std::make_unique<RandomDataset>(config);
  }
  throw UsageError("data.kind has an unknown value");
}

}  // namespace lockstep::train
