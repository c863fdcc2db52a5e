// Bytes as UTF-8 and back.
#include "core/base/byte_text.h"

#include <random>

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(ByteText, TextStaysAsItIs) {
  for (const std::string text :
       {"", "plain/name-1.txt", "Grüße, 世界, 🙂", "a\\b \\n \\x \\xg0 \\x4", "\x7f\x01"}) {
    EXPECT_EQ(find_no_utf8(text), std::string::npos) << text;
    EXPECT_EQ(text_of_bytes(text), text);
    EXPECT_EQ(bytes_of_text(text), text);
  }
}

TEST(ByteText, BytesThatAreNoTextAreSpelledOut) {
  EXPECT_EQ(text_of_bytes("caf\xe9/x"), "caf\\xE9/x");
  EXPECT_EQ(bytes_of_text("caf\\xe9/x"), "caf\xe9/x");
  EXPECT_EQ(find_no_utf8("caf\xe9"), 3u);
  // What looks like such a word, and is none, must not become a byte.
  EXPECT_EQ(text_of_bytes("a\\xE9"), "a\\x5CxE9");
  EXPECT_EQ(bytes_of_text("a\\x5CxE9"), "a\\xE9");
}

TEST(ByteText, WhatOnlyLooksLikeUtf8IsNone) {
  const std::string wrong[] = {"\xc0\xaf",
                               "\xe0\x80\xaf",
                               "\xed\xa0\x80",
                               "\xf0\x80\x80\xaf",
                               "\xf4\x90\x80\x80",
                               "\xf8\x88\x80\x80\x80",
                               "\x80",
                               "\xe2\x82",
                               "\xff"};
  for (const std::string& bytes : wrong) {
    EXPECT_EQ(find_no_utf8("ab" + bytes), 2u);
    EXPECT_EQ(find_no_utf8(text_of_bytes(bytes)), std::string::npos);
  }
}

TEST(ByteText, AnyBytesComeBack) {
  std::mt19937 random(1);
  const std::string pieces[] = {
      "\\", "x", "E", "9", "\xe9", "\xc3", "\xa9", "5C", std::string(1, '\0'), "\\x", "\n"};
  for (int i = 0; i < 20000; ++i) {
    std::string bytes;
    for (uint32_t n = random() % 8; n > 0; --n)
      bytes += random() % 4 == 0 ? std::string(1, static_cast<char>(random()))
                                 : pieces[random() % std::size(pieces)];
    const std::string text = text_of_bytes(bytes);
    ASSERT_EQ(find_no_utf8(text), std::string::npos);
    ASSERT_EQ(bytes_of_text(text), bytes);
  }
}

}  // namespace
}  // namespace lockstep
