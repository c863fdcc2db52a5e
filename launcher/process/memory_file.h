// MemoryFile: a file in memory that the agent keeps and ranks open by path. It has no name, so that
// nothing is left behind, however the agent ends.
#pragma once

#include <string>

namespace lockstep::launcher {

class MemoryFile {
 public:
  // `label`: how /proc shows it. Throws EnvironmentError.
  explicit MemoryFile(const char* label);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // As long as the agent lives, for processes of the same user and PID namespace.
  std::string path() const;
  // The first `most` bytes of it.
  std::string contents(size_t most) const;

 private:
  int fd_ = -1;
};

}  // namespace lockstep::launcher
