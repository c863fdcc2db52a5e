// A file that is read at given places. Errors are EnvironmentErrors that name path, byte and errno.
#pragma once

#include <cstdint>
#include <string>

namespace lockstep::checkpoint {

// Immutable: reads may come from several threads.
class ReadableFile {
 public:
  explicit ReadableFile(std::string path);
  ~ReadableFile();
  ReadableFile(const ReadableFile&) = delete;
  ReadableFile& operator=(const ReadableFile&) = delete;

  const std::string& path() const { return path_; }
  int64_t bytes() const { return bytes_; }
  // All of [offset, offset + bytes), or an error.
  void read(int64_t offset, void* data, int64_t bytes) const;
  // SHA-256 of the whole file, as hex.
  std::string sha256() const;

 private:
  std::string path_;
  int fd_;
  int64_t bytes_ = 0;
};

// The whole file as text. An error where it has more than `limit` bytes.
std::string read_text(const std::string& path, int64_t limit);

}  // namespace lockstep::checkpoint
