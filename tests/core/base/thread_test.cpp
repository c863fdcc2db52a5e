// What is said where the system grants no thread.
#include "core/base/thread.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/support/error_of.h"

namespace lockstep {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// While it lives there is no address space for a thread's stack.
class NoRoomForThreads {
 public:
  NoRoomForThreads() {
    size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    ::getrlimit(RLIMIT_AS, &before_);
    rlimit limit = before_;
    limit.rlim_cur = pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE)) + (1 << 20);
    ::setrlimit(RLIMIT_AS, &limit);
  }
  ~NoRoomForThreads() { ::setrlimit(RLIMIT_AS, &before_); }

 private:
  rlimit before_{};
};

TEST(Thread, ThatIsRefusedIsCalledByWhatItWasFor) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs the address space that is limited here";
#endif
  const NoRoomForThreads none;
  const auto names_it =
      AllOf(StartsWith("the system grants no thread to count sheep (Resource temporarily "
                       "unavailable): raise the limit"),
            HasSubstr("(ulimit -u, now "), HasSubstr("of memory (ulimit -v, now "),
            HasSubstr("OMP_NUM_THREADS"));
  bool called = false;
  EXPECT_THAT(
      test::error_of([&] { start_thread("to count sheep", [&] { called = true; }).join(); }),
      names_it);
  EXPECT_THAT(test::error_of([&] { start_async("to count sheep", [&] { called = true; }).get(); }),
              names_it);
  EXPECT_FALSE(called);
}

TEST(Thread, RunsItsBody) {
  int thread = 0;
  start_thread("to set a number", [&] { thread = 1; }).join();
  EXPECT_EQ(thread, 1);
  EXPECT_EQ(start_async("to give a number", [] { return 2; }).get(), 2);
}

}  // namespace
}  // namespace lockstep
