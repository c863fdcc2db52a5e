// The devices on which the ranks of a run compute, and what these can reach.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "comm/process_group.h"
#include "core/base/dtype.h"

namespace lockstep::train {

struct Devices {
  int ranks = 1;
  // The model of each device that some rank uses, each device once. Empty: the ranks are on CPUs.
  std::vector<std::string> models = {};

  // For people and records: "cpu (avx512)"; "2 x NVIDIA H200"; "1 x NVIDIA H200, shared by 4
  // ranks".
  std::string text() const;
};
// Collective, through the host. Each rank's device is its group's.
Devices devices_of(comm::ProcessGroup& group);

// Floating-point operations per second of dense products that all devices reach together. A CPU's
// is probed (some milliseconds, once for each dtype): the peak of a core times the cores that the
// ranks with this process's thread count use on this host. Nothing if a device's is not known.
std::optional<double> peak_flops(const Devices& devices, DType compute);
// The same of one device, by its model: "NVIDIA H100 80GB HBM3".
std::optional<double> peak_flops_of(std::string_view model, DType compute);

}  // namespace lockstep::train
