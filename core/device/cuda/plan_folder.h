// A folder of plans that libraries have built for this kind of device, so that a second start need
// not build them again (docs/formats/plans.md). Thread-safe. Several processes may share a folder.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace lockstep::cuda {

// FNV-1a of 64 bits, in hexadecimal.
std::string checksum(std::string_view text);

// The contents of a file that keeps `plan` for `key`, which has no line break.
std::string plan_file(std::string_view key, std::string_view plan);

struct FoundPlan {
  std::string plan;
  std::string problem;  // why `contents` keeps no plan for the key; empty if it does
};
// Reads plan_file()'s contents. They are believed only if the key is the same and the checksum
// fits.
FoundPlan read_plan_file(std::string_view contents, std::string_view key);

// The plan that the folder keeps for `key`, if there is a folder. A damaged or foreign file is
// ignored, and one line of the log says so.
std::optional<std::string> kept_plan(const std::string& key);
// Keeps a plan. Does nothing without a folder. A failure leaves the old file, and one line of the
// log says so.
void keep_plan(const std::string& key, const std::string& plan);
// Says that a kept plan is not used.
void say_ignored_plan(const std::string& key, const std::string& reason);

}  // namespace lockstep::cuda
