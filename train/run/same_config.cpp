#include "train/run/same_config.h"

#include "comm/text.h"

namespace lockstep::train {

void check_same_config(const Config& config, comm::ProcessGroup& group) {
  const std::string text = canonical_text(config);
  if (comm::is_same_text(group, text)) return;
  const std::vector<std::string> texts = comm::all_gather_text(group, text);
  for (size_t r = 1; r < texts.size(); ++r) {
    const auto all = differences(texts[0], texts[r]);
    if (all.empty()) continue;
    const ConfigDifference& difference = all.front();
    throw UsageError(str("[config] the ranks were given different configs: '", difference.key,
                         "' is ", difference.a, " on rank 0 and ", difference.b, " on rank ", r,
                         "; start every rank with the same file and the same --set"));
  }
}

}  // namespace lockstep::train
