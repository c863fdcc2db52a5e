// A file read at given offsets. Errors are EnvironmentErrors that name path, byte and errno.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace lockstep::checkpoint {

// Immutable: several threads may read from it.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;  // closes
  virtual const std::string& path() const = 0;
  virtual int64_t bytes() const = 0;
  // Reads all of [offset, offset + bytes), or throws.
  virtual void read(int64_t offset, void* data, int64_t bytes) const = 0;
};

// Reads from anything that has bytes.
using ReadAt = std::function<void(int64_t offset, void* data, int64_t bytes)>;

enum class Links : uint8_t { follow, refuse };
// Opens a regular file. Links::refuse: fails if the path itself is a symbolic link.
std::unique_ptr<ReadableFile> open_file(const std::string& path, Links links = Links::follow);

// Returns the whole file as text. Throws if it has more than `limit` bytes.
std::string read_text(const ReadableFile& file, int64_t limit);

}  // namespace lockstep::checkpoint
