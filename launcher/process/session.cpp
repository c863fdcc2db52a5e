#include "launcher/process/session.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace lockstep::launcher {
namespace {

// The record of getdents64. glibc's readdir allocates memory, which is forbidden after a fork
// without exec.
struct DirectoryEntry {
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[1];
};

pid_t parse_pid(const char* text) {
  pid_t pid = 0;
  for (; *text; ++text) {
    if (*text < '0' || *text > '9') return 0;
    pid = pid * 10 + (*text - '0');
  }
  return pid;
}

struct ProcessStat {
  char state = '?';
  pid_t session = 0;
  bool guardian = false;
};

// Parses "PID (name) S PPID PGRP SESSION …". The name may contain any character, so the fields
// begin after the last ')'.
ProcessStat parse_stat(const char* text) {
  ProcessStat out;
  const char* close = std::strrchr(text, ')');
  if (!close || close[1] != ' ') return out;
  out.state = close[2];
  out.guardian = std::strstr(text, "(lockstep-guard)") != nullptr;
  const char* field = close + 2;
  for (int skip = 0; skip < 3; ++skip) {
    field = std::strchr(field, ' ');
    if (!field) return out;
    ++field;
  }
  while (*field >= '0' && *field <= '9') out.session = out.session * 10 + (*field++ - '0');
  return out;
}

ProcessStat read_stat(int proc_fd, const char* pid) {
  char path[32];
  const size_t length = std::strlen(pid);
  if (length > 20) return {};
  std::memcpy(path, pid, length);
  std::memcpy(path + length, "/stat", 6);
  const int fd = ::openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  char text[512];
  const ssize_t got = ::read(fd, text, sizeof text - 1);
  ::close(fd);
  if (got <= 0) return {};
  text[got] = '\0';
  return parse_stat(text);
}

// Whether a variable of the process begins with `text`, or is it.
bool has_variable(int proc_fd, const char* pid, const char* text, bool whole) {
  char path[40];
  const size_t length = std::strlen(pid), wanted = std::strlen(text);
  if (length > 20) return false;
  std::memcpy(path, pid, length);
  std::memcpy(path + length, "/environ", 9);
  const int fd = ::openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char buffer[4096];
  size_t matched = 0;  // characters of `text` that the current variable has begun with
  bool open = true;    // the current variable may still match
  ssize_t got = 0;
  bool found = false;
  while (!found && (got = ::read(fd, buffer, sizeof buffer)) > 0) {
    for (ssize_t i = 0; i < got && !found; ++i) {
      if (buffer[i] == '\0') {
        found = whole && open && matched == wanted;
        matched = 0;
        open = true;
      } else if (open) {
        open = buffer[i] == text[matched++];
        found = !whole && open && matched == wanted;
      }
    }
  }
  ::close(fd);
  return found;
}

// Calls `act` with /proc and the number of each process, as text.
template <typename Act>
bool for_each_process(const Act& act) {
  const int proc_fd = ::open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (proc_fd < 0) return false;
  alignas(DirectoryEntry) char buffer[4096];
  long got = 0;
  while ((got = ::syscall(SYS_getdents64, proc_fd, buffer, sizeof buffer)) > 0) {
    for (long at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const DirectoryEntry*>(buffer + at);
      at += entry->length;
      const char* name = reinterpret_cast<const char*>(entry) + offsetof(DirectoryEntry, name);
      if (const pid_t pid = parse_pid(name); pid > 1) act(proc_fd, name, pid);
    }
  }
  ::close(proc_fd);
  return true;
}

}  // namespace

int signal_session(pid_t session, int signal) {
  if (session <= 1) return 0;
  int found = 0;
  const bool looked = for_each_process([&](int proc_fd, const char* name, pid_t pid) {
    const ProcessStat stat = read_stat(proc_fd, name);
    if (stat.session != session || stat.state == 'Z' || stat.state == 'X') return;
    ++found;
    ::kill(pid, signal);
  });
  if (!looked) ::kill(-session, signal);
  return found;
}

int signal_marked(const char* text, int signal, bool whole) {
  int found = 0;
  for_each_process([&](int proc_fd, const char* name, pid_t pid) {
    const ProcessStat stat = read_stat(proc_fd, name);
    if (stat.guardian || stat.state == 'Z' || stat.state == 'X') return;
    if (!has_variable(proc_fd, name, text, whole)) return;
    ++found;
    ::kill(pid, signal);
  });
  return found;
}

}  // namespace lockstep::launcher
