// A file that is read at given places. Errors are EnvironmentErrors that name path, byte and errno.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace lockstep::checkpoint {

// Immutable: reads may come from several threads.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;  // closes
  virtual const std::string& path() const = 0;
  virtual int64_t bytes() const = 0;
  // All of [offset, offset + bytes), or an error.
  virtual void read(int64_t offset, void* data, int64_t bytes) const = 0;
};

// The same of anything that has bytes.
using ReadAt = std::function<void(int64_t offset, void* data, int64_t bytes)>;

enum class Links : uint8_t { follow, refuse };
// A regular file; `refuse`: and not through a symbolic link as the last part of its path.
std::unique_ptr<ReadableFile> open_file(const std::string& path, Links links = Links::follow);

// The whole file as text. An error where it has more than `limit` bytes.
std::string read_text(const ReadableFile& file, int64_t limit);

}  // namespace lockstep::checkpoint
