// The file system operations that checkpoints need. Here tests can let operations fail or the
// machine "crash". Every failure is an EnvironmentError with operation, path and errno.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

struct statvfs;

#include "checkpoint/files/readable_file.h"

namespace lockstep::checkpoint {

class WritableFile {
 public:
  virtual ~WritableFile() = default;  // closes
  virtual void write(const void* data, size_t bytes) = 0;
  virtual void sync() = 0;  // returns when the contents are on disk
};

// Thread-safe.
class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // Creates a new file. Throws if it exists.
  virtual std::unique_ptr<WritableFile> create(const std::string& path) = 0;
  // Creates the folder and its parents durably. Does nothing if it exists.
  virtual void make_directories(const std::string& path) = 0;
  // Creates a new folder. Throws if it exists.
  virtual void make_directory(const std::string& path) = 0;
  // Makes the folder's own entries (new names, renames) durable.
  virtual void sync_directory(const std::string& path) = 0;
  // Renames `from` to `to` in one step. If `to` exists, the two exchange places, and the old
  // contents end up under `from`.
  virtual void rename_directory(const std::string& from, const std::string& to) = 0;
  virtual void remove_all(const std::string& path) = 0;
  // Returns sorted names, not paths. Empty for a missing folder.
  virtual std::vector<std::string> list(const std::string& path) = 0;
  // Opens a regular file that is not a symbolic link.
  virtual std::unique_ptr<ReadableFile> open(const std::string& path) = 0;
  // Returns how much this user may still write to the file system of this folder, or nothing if it
  // is unknown.
  virtual std::optional<int64_t> free_bytes(const std::string& path) = 0;
};

FileSystem& posix_file_system();

// Returns the bytes that are free to this user according to statvfs(), or nothing if the file
// system does not count them. At most the largest int64_t.
std::optional<int64_t> free_bytes_of(const struct statvfs& info);

// Renames a file or folder to `to`. Throws EnvironmentError if `to` exists; check and rename are
// one step if the file system allows that.
void rename_to_new(const std::string& from, const std::string& to);

// Writes a file that gets its name only when it is complete and on disk. `write` must create and
// sync it under the temporary name that it gets, in the same folder. If `write` throws, nothing
// stays. An existing file is an EnvironmentError, unless `replaces` is true.
void write_whole_file(const std::string& path,
                      const std::function<void(const std::string& aside)>& write,
                      bool replaces = false);
void write_whole_file(const std::string& path, const std::string& text, bool replaces = false);

}  // namespace lockstep::checkpoint
