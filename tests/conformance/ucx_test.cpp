// The suite with ranks as processes that reach each other over TCP, as ranks of several hosts do.
#include <cstdlib>

#include "tests/conformance/process_group_suite.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::test {
namespace {

void run_over_tcp(const std::string& backend, int size,
                  const std::function<void(const MakeGroup&)>& body) {
  ::setenv("UCX_TLS", "tcp", 1);
  const auto store = std::make_shared<ForkStore>();
  run_ranks(size, [&](int rank) {
    body([&](const GroupOptions& options) {
      return comm::create(backend, store, rank, size, options);
    });
  });
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(ucx, ProcessGroupSuite,
                         testing::ValuesIn(cases("ucx", {1, 2, 3, 4, 8}, run_over_tcp)), case_name);

}  // namespace lockstep::test
