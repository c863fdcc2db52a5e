// MemoryFile: a file in memory that the agent keeps and ranks open by path. It has no name, so
// nothing is left behind, however the agent ends.
#pragma once

#include <string>

namespace lockstep::launcher {

class MemoryFile {
 public:
  // `label`: the name that /proc shows. Throws EnvironmentError.
  explicit MemoryFile(const char* label, const std::string& contents = {});
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int fd() const { return fd_; }
  // Valid while the agent lives, for processes of the same user and PID namespace. Its mode is
  // 0600.
  std::string path() const;
  // The first `most` bytes of the file.
  std::string contents(size_t most) const;

 private:
  int fd_ = -1;
};

}  // namespace lockstep::launcher
