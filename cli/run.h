// `lockstep run`: torchrun's command line, for any program.
#pragma once

#include <string>
#include <vector>

#include "launcher/launch.h"

namespace lockstep::cli {

// The option of `known` that is most like `name`. Each has its dashes. Empty if none is similar.
std::string nearest_option(const std::string& name, const std::vector<std::string>& known);

// Parses "3" or "0:1,1:3": per local rank, which streams stay off the screen (1 standard output, 2
// standard error, 3 both). Throws UsageError.
std::vector<int> parse_streams(const std::string& text, int nproc);

// Parses "2" or "2:2". A real range of nodes needs elasticity, which this command lacks. Throws
// UsageError.
int parse_nodes(const std::string& text);

// Parses "4", "auto" or "cpu" (one rank per core), or "gpu" (one per visible NVIDIA device). Throws
// UsageError.
int parse_nproc(const std::string& text);

}  // namespace lockstep::cli
