// What others report cannot command a terminal.
#include "launcher/base/plain_text.h"

#include <gtest/gtest.h>

namespace lockstep::launcher {
namespace {

TEST(PlainText, keeps_what_people_write) {
  const std::string text = "line one\n\tGrüße, 漢字 … \"'\\";
  EXPECT_EQ(plain_text(text), text);
  EXPECT_EQ(plain_text("\xff\xfe"), "\xff\xfe");  // not UTF-8, and no terminal obeys it
}

TEST(PlainText, replaces_what_a_terminal_obeys) {
  EXPECT_EQ(plain_text("\x1b[2J\x1b]0;title\x07"), "?[2J?]0;title?");
  EXPECT_EQ(plain_text("a\rb\bc\x7f"), "a?b?c?");
  EXPECT_EQ(plain_text(std::string("a\0b", 3)), "a?b");
  EXPECT_EQ(plain_text("\xc2\x9b"
                       "31m"),
            "??31m");  // U+009B begins a sequence as ESC [ does
}

}  // namespace
}  // namespace lockstep::launcher
