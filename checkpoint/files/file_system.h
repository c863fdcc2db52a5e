// What checkpoints ask of a file system: the seam at which tests let operations fail or the machine
// "crash". Every failure is an EnvironmentError with operation, path and errno.
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
  // A new file; an error if it exists.
  virtual std::unique_ptr<WritableFile> create(const std::string& path) = 0;
  // With parents, and durably; nothing happens where it exists.
  virtual void make_directories(const std::string& path) = 0;
  // A new folder; an error if it exists.
  virtual void make_directory(const std::string& path) = 0;
  // Makes the folder's own entries (new names, renames) durable.
  virtual void sync_directory(const std::string& path) = 0;
  // In one step `from` becomes `to`; where `to` exists, the two change places, and what was there
  // is left under `from`.
  virtual void rename_directory(const std::string& from, const std::string& to) = 0;
  virtual void remove_all(const std::string& path) = 0;
  // Names, not paths, sorted; empty for a missing folder.
  virtual std::vector<std::string> list(const std::string& path) = 0;
  // A regular file that is no symbolic link.
  virtual std::unique_ptr<ReadableFile> open(const std::string& path) = 0;
  // What this user may still write to the file system that holds this folder; nothing where it does
  // not say.
  virtual std::optional<int64_t> free_bytes(const std::string& path) = 0;
};

FileSystem& posix_file_system();

// What statvfs() says is free to this user, in bytes; nothing where the file system does not count.
// As many as an int64 holds where there are more.
std::optional<int64_t> free_bytes_of(const struct statvfs& info);

// Gives a file or folder the name `to`. Throws EnvironmentError where that exists; the look at it
// and the renaming are one where the file system allows.
void rename_to_new(const std::string& from, const std::string& to);

// Writes a file that has its name only once it is whole and on disk. `write` makes it under the
// name that it is given, beside it in the same folder, and syncs it; if `write` throws, nothing
// stays. A file of that name is an EnvironmentError, unless `replaces`.
void write_whole_file(const std::string& path,
                      const std::function<void(const std::string& aside)>& write,
                      bool replaces = false);
void write_whole_file(const std::string& path, const std::string& text, bool replaces = false);

}  // namespace lockstep::checkpoint
