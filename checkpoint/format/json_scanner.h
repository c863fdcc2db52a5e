// Scans strict JSON (RFC 8259, in UTF-8 as RFC 3629 defines it) forwards through a window. It
// builds no tree and does not recurse, so a text of any size takes no memory beyond the window and
// what the caller keeps. For texts with a grammar that the caller knows, such as a safetensors
// header. parse_strict_json() (checkpoint/format/strict_json.h) reads other texts.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "checkpoint/files/readable_file.h"

namespace lockstep::checkpoint {

class JsonScanner {
 public:
  // Invalid JSON: "byte 17: expected ':', got '}'", short and safe for a terminal. Bytes count from
  // the start of the file.
  class Error : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
  };

  // Scans the bytes [offset, offset + bytes) that `read` can read.
  JsonScanner(const ReadAt& read, int64_t offset, int64_t bytes);

  // Returns the next byte that is not white space, without taking it; -1 at the end of the text.
  int peek() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
    return at_ != end_ ? static_cast<unsigned char>(*at_) : peek_further();
  }
  // Takes the character, or throws.
  void expect(char c) {
    if (peek() != c) fail_expecting(c);
    ++at_;
  }
  // Call after '{' or '['. Returns whether an element follows; if not, takes `close`.
  bool begins(char close) { return peek() != close ? true : (++at_, false); }
  // Call after an element. Returns whether another one follows; takes the comma or `close`.
  bool continues(char close);
  void expect_end();

  // Takes a string and appends its characters to `to`. `to` grows by no more than the rest of the
  // text, and keeps room for one more character.
  void string(std::string& to);
  // Takes a whole number from 0 to 2^63-1 without fraction and exponent. Returns nothing if another
  // value follows; described() then describes that.
  std::optional<int64_t> count();
  // For messages: "a string", "an object", "a list", or the number or word itself.
  std::string described();

 private:
  int byte() { return at_ != end_ || refill() ? static_cast<unsigned char>(*at_) : -1; }
  int peek_further();
  bool refill();
  size_t left() const { return static_cast<size_t>(unread_) + static_cast<size_t>(end_ - at_); }
  void append(std::string& to, const char* data, size_t bytes) const;
  void escape(std::string& to);
  uint32_t four_digits();
  void character(std::string& to);
  std::optional<int64_t> any_number();
  void take(int c);
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void fail_expecting(char c);
  [[noreturn]] void fail_here(const std::string& expected);

  const ReadAt& read_;
  int64_t offset_;  // offset of the window's end in the file
  int64_t unread_;  // bytes of the text after the window
  int64_t window_bytes_;
  std::unique_ptr<char[]> window_;
  const char* at_ = nullptr;
  const char* end_ = nullptr;
  std::string number_;  // text that count() took and that is not a valid count
};

}  // namespace lockstep::checkpoint
