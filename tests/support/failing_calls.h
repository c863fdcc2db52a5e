// System calls that fail, as on systems and file systems that lack them: a filter (seccomp) on a
// thread of its own.
#pragma once

#include <cstddef>
#include <thread>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

namespace lockstep::test {

// Runs `action` on a thread with that filter; false, and nothing done, where the system lets no
// thread filter its calls.
template <size_t N, typename F>
bool where_calls_fail(sock_filter (&program)[N], const F& action) {
  bool filtered = false;
  std::thread([&] {
    const sock_fprog filter{.len = N, .filter = program};
    filtered = ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
               ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
    if (filtered) action();
  }).join();
  return filtered;
}

// The same where every call of that number (SYS_…) fails with that errno.
template <typename F>
bool where_call_fails(unsigned number, int error, const F& action) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  return where_calls_fail(program, action);
}

}  // namespace lockstep::test
