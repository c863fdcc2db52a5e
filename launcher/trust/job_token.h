// JobToken: 256 random bits that every process of a job shares and nobody else has.
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace lockstep::launcher {

class JobToken {
 public:
  static constexpr size_t kBytes = 32;

  // From the system's random numbers. Throws EnvironmentError.
  static JobToken random();
  // 64 hexadecimal digits, and white space after them. Throws UsageError that names `where` and
  // never shows the text.
  static JobToken parse(std::string_view text, const std::string& where);
  // Throws UsageError unless the file belongs to this user or to root, nobody else may read or
  // write it, and it holds a token. Throws EnvironmentError if it cannot be read.
  static JobToken read(const std::string& path);

  // Makes a new file of mode 0600. Throws UsageError if there is something at `path` already, and
  // EnvironmentError.
  void write_new(const std::string& path) const;
  // What parse() takes. Write it only where no other user can read.
  std::string text() const;

  // 32 bytes for one purpose (HKDF-SHA256). They tell nothing of the token or of other purposes.
  std::string derive(std::string_view purpose) const;

 private:
  std::array<unsigned char, kBytes> bytes_{};
};

}  // namespace lockstep::launcher
