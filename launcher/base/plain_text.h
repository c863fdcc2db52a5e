// What others report, so that a terminal can show it.
#pragma once

#include <string>
#include <string_view>

namespace lockstep::launcher {

// Replaces control characters by '?', so that no text of another process moves the cursor, colours
// the screen, or types for its reader. Line ends and tabs stay, and all bytes of UTF-8.
std::string plain_text(std::string_view text);

}  // namespace lockstep::launcher
