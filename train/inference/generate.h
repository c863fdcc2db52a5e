// Text from a trained language model (gpt, llama).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace lockstep::train {

struct GenerateOptions {
  std::string prompt;
  int64_t tokens = 200;
  double temperature = 0.8;  // 0: always the likeliest token
  uint64_t seed = 0;         // equal seeds give equal text
  std::string device = {};   // auto, cpu or cuda; empty: where the model was trained
};

// Reads the model from a checkpoint, or from the newest good one of a run folder. Calls `emit` with
// each piece of text as it comes. Throws UsageError if there is no language model in the
// checkpoint, or for an empty prompt.
void generate(const std::string& checkpoint, const GenerateOptions& options,
              const std::function<void(const std::string&)>& emit);

}  // namespace lockstep::train
