// Names that are unique in practice.
#pragma once

#include <string>

namespace lockstep::launcher {

// 16 hexadecimal digits.
std::string random_id();

}  // namespace lockstep::launcher
