// What a rank's device and its links can do, for estimates of a step's time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "train/config/config.h"

namespace lockstep::train {

struct Hardware {
  std::string name;
  double flops_per_s = 0;  // of a rank: dense products in the run's precision
  // The part of it that a whole model's forward and backward passes reach.
  double efficiency = 1;
  double memory_bytes_per_s = 0;  // of a rank
  double memory_bytes = 0;        // of a rank
  double local_bytes_per_s = 0;   // of a rank, to ranks of its node, in one direction
  double remote_bytes_per_s = 0;  // of a rank, to other nodes, in one direction
  int ranks_per_node = 1;
  double call_s = 0;  // what a collective takes beside its bytes, within a node
  // Whether communication runs beside the operations. On a CPU it takes their cores.
  bool overlaps = true;
  // Of one micro-batch, forward and backward, as measured. 0: not measured.
  double micro_batch_s = 0;
  // How many ranks share a core.
  double ranks_per_core = 1;
};

// Data sheet figures of "h100", "h200" or "b200" (SXM, 8 to a node, NVLink), with the assumptions
// that docs/scale.md states. Nothing for another name. `link`: to other nodes, GB/s a GPU.
std::optional<Hardware> gpu_hardware(std::string_view name, Precision precision, double link);

// This machine's cores, for `ranks` ranks that start on it. Measures a micro-batch of the config's
// model, an optimizer's access to memory, and a core's peak: some seconds. Throws UsageError if the
// model is too large for that.
Hardware measured_cpu(const Config& config, int ranks);

}  // namespace lockstep::train
