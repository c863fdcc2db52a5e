// `lockstep run`: the command line of torchrun, for any program.
#pragma once

#include <string>
#include <vector>

#include "launcher/launch.h"

namespace lockstep::cli {

// The option among `known` (each with its dashes) that `name` may have been meant to be; empty
// where none is near.
std::string nearest_option(const std::string& name, const std::vector<std::string>& known);

// "3", or "0:1,1:3": per local rank, which streams stay off the screen (1 standard output, 2
// standard error, 3 both). Throws UsageError.
std::vector<int> parse_streams(const std::string& text, int nproc);

// "2" or "2:2"; ranges of nodes need elasticity, which this command does not have. Throws
// UsageError.
int parse_nodes(const std::string& text);

// "4", "auto" or "cpu" (one rank per core), "gpu" (one per visible NVIDIA device). Throws
// UsageError.
int parse_nproc(const std::string& text);

}  // namespace lockstep::cli
