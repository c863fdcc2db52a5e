// Numbers of bytes for people. MB is 10^6 bytes wherever a user meets it (`_mb` in keys and
// figures, too); 2^20 bytes are a MiB.
#pragma once

#include <string>

namespace lockstep {

inline constexpr double kMB = 1e6;

// In the largest unit of which there is at least one: "812 B", "3.4 KB", "56.0 MB", "1.2 GB".
std::string size_text(double bytes);

// "1 rank", "2 ranks".
std::string count_text(long long count, const std::string& noun, const char* plural = "s");

}  // namespace lockstep
