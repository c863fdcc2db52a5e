#include "train/parallel/offload.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/error.h"

namespace lockstep::train {
namespace {

// A file descriptor that closes itself. A mapping of the file outlives it.
struct File {
  int fd;
  ~File() {
    if (fd >= 0) ::close(fd);
  }
};

int open_nameless(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
  // The file system does not support O_TMPFILE.
  std::string path = folder + "/offload-XXXXXX";
  const int named = ::mkostemp(path.data(), O_CLOEXEC);
  if (named >= 0) ::unlink(path.c_str());
  return named;
}

}  // namespace

std::shared_ptr<Storage> file_memory(const std::string& folder, size_t bytes) {
  const auto failed = [&](const char* what, int error) {
    return EnvironmentError(str("[offload] ", what, " for ", bytes, " bytes of state in ", folder,
                                ": ", errno_text(error)));
  };
  const File file{open_nameless(folder)};
  if (file.fd < 0) throw failed("cannot make a file", errno);
  // Reserve the space now: if a later write to a page found no space, SIGBUS would end the process.
  if (const int error = ::posix_fallocate(file.fd, 0, static_cast<off_t>(bytes)); error != 0)
    throw failed("no space", error);
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) throw failed("cannot map a file", errno);
  MemoryScope scope(MemoryCategory::offloaded);
  return std::make_shared<Storage>(data, bytes, kCpu, [data, bytes] { ::munmap(data, bytes); });
}

StorageScope::Make offload_to(const std::string& folder) {
  return [folder](size_t bytes) {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error)
      throw EnvironmentError(
          str("[offload] cannot make the folder ", folder, ": ", error.message()));
    return file_memory(folder, bytes);
  };
}

}  // namespace lockstep::train
