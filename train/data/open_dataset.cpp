#include "core/base/error.h"
#include "train/data/dataset.h"
#include "train/data/random_dataset.h"
#include "train/data/text_dataset.h"

namespace lockstep::train {

std::unique_ptr<Dataset> open_dataset(const Config& config) {
  if (config.data.kind == "text") return std::make_unique<TextDataset>(config);
  if (config.data.kind == "random") return std::make_unique<RandomDataset>(config);
  throw UsageError(str("data.kind '", config.data.kind, "' is none of text, random"));
}

}  // namespace lockstep::train
