// The screen of a command that must go on, and heed signals, while nobody reads what it writes.
#pragma once

#include <string_view>

#include "core/base/screen_writer.h"

namespace lockstep::cli {

// From here on what print() gets and what the log says is written by threads of their own. Warns,
// and leaves it as it was, where the system grants none. Once it is open, nothing else may write to
// standard output or standard error.
void open_screen();
// Null where it is not open.
ScreenWriter* screen();
// To standard output, or to the stream given.
void print(std::string_view text, ScreenWriter::Stream stream = ScreenWriter::Stream::output);
// Waits for the reader of what was written, until it has come. After a stop or a failure (`code` is
// not 0), or once a signal asks for an end, a reader that takes nothing for ScreenWriter::kUnread
// is left.
void close_screen(int code);

}  // namespace lockstep::cli
