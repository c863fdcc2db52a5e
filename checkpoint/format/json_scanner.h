// Strict JSON (RFC 8259, in UTF-8 as RFC 3629 defines it), scanned forwards through a window.
// Nothing is built and nothing recurses, so a text of any size takes no memory beyond the window
// and what the caller keeps. For texts whose grammar the caller knows, such as the header of a
// safetensors file; parse_strict_json() (checkpoint/format/strict_json.h) reads the others.
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
  // What is no JSON: "byte 17: expected ':', got '}'", short and fit for a terminal; bytes count
  // from the start of the file.
  class Error : public std::runtime_error {
   public:
    using std::runtime_error::runtime_error;
  };

  // Of the bytes [offset, offset + bytes) of what `read` gives parts of.
  JsonScanner(const ReadAt& read, int64_t offset, int64_t bytes);

  // The next byte that is no white space, which stays; -1 at the end of the text.
  int peek() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
    return at_ != end_ ? static_cast<unsigned char>(*at_) : peek_further();
  }
  // Takes it, or throws.
  void expect(char c) {
    if (peek() != c) fail_expecting(c);
    ++at_;
  }
  // Behind '{' or '[': whether an element comes. Takes `close` where none does.
  bool begins(char close) { return peek() != close ? true : (++at_, false); }
  // Behind an element: whether another one comes. Takes the comma, or `close`.
  bool continues(char close);
  void expect_end();

  // Takes a string and appends its characters to `to`, which grows by no more than what is left of
  // the text, and keeps room for one more.
  void string(std::string& to);
  // Takes a whole number from 0 to 2^63-1, written without fraction and exponent. Nothing where
  // another value comes; described() then says what.
  std::optional<int64_t> count();
  // For a message: "a string", "an object", "a list", or the number or word itself.
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
  int64_t offset_;  // in the file, of the end of the window
  int64_t unread_;  // bytes of the text behind the window
  int64_t window_bytes_;
  std::unique_ptr<char[]> window_;
  const char* at_ = nullptr;
  const char* end_ = nullptr;
  std::string number_;  // that count() took and is none
};

}  // namespace lockstep::checkpoint
