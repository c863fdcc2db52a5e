// The screen of a command that must continue, and react to signals, while nobody reads its output.
#pragma once

#include <string_view>

#include "core/screen/screen_writer.h"

namespace lockstep::cli {

// From here on, separate threads write what print() gets and what the log says. If the system
// refuses these threads, this warns and changes nothing. While the screen is open, nothing else may
// write to standard output or standard error.
void open_screen();
// Null if it is not open.
ScreenWriter* screen();
// Writes to standard output, or to the given stream.
void print(std::string_view text, ScreenWriter::Stream stream = ScreenWriter::Stream::output);
// Waits until the reader has taken everything. After a stop or a failure (`code` is not 0), or once
// a signal asks to end, it gives up on a reader that takes nothing for ScreenWriter::kUnread.
void close_screen(int code);

}  // namespace lockstep::cli
