// What this build is made of.
#pragma once

#include <string>

namespace lockstep::cli {

// Several lines: version, compiler, libraries, instruction set. Results are comparable bit for bit
// where these are equal.
std::string version_text();

}  // namespace lockstep::cli
