// Describes this build.
#pragma once

#include <string>

namespace lockstep::cli {

// Several lines: version, compiler, libraries, instruction set. If these are equal, results are
// comparable bit for bit.
std::string version_text();

}  // namespace lockstep::cli
