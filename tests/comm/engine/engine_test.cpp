// What a group's calls do to each other, where the system refuses a thread.
#include "comm/engine/engine.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "comm/process_group.h"
#include "core/base/error.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::comm {
namespace {

// The other ranks do not know of the call, so it must not count.
TEST(Engine, ACallThatGotNoThreadHasTakenNoNumber) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs the address space that is limited here";
#endif
  test::ForkStore store;
  const std::shared_ptr<Store> shared(&store, [](Store*) {});
  test::run_ranks(2, [&](int rank) {
    const auto g = create("shm", shared, rank, 2, {.timeout = std::chrono::seconds(60)});
    const Tensor t = Tensor::full({10}, 1);
    if (rank == 0) {
      rlimit before{};
      ::getrlimit(RLIMIT_AS, &before);
      const rlimit full{.rlim_cur = 1 << 20, .rlim_max = before.rlim_max};
      ::setrlimit(RLIMIT_AS, &full);  // less than there is: no stack for a thread
      std::string refused;
      try {
        g->all_reduce(t);
      } catch (const std::exception& e) {
        refused = e.what();
      }
      ::setrlimit(RLIMIT_AS, &before);
      EXPECT_NE(refused, "") << "the call got a thread without memory for it";
    }
    g->all_reduce(t).wait();
    EXPECT_EQ(t.data<float>()[9], 2);
  });
}

}  // namespace
}  // namespace lockstep::comm
