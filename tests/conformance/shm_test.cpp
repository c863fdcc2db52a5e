// The suite with ranks as processes of one host.
#include "tests/conformance/process_group_suite.h"
#include "tests/support/fork_store.h"
#include "tests/support/run_ranks.h"

namespace lockstep::test {
namespace {

void run_forked(const std::string& backend, int size,
                const std::function<void(const MakeGroup&)>& body) {
  const auto store = std::make_shared<ForkStore>();
  run_ranks(size, [&](int rank) {
    body([&](const GroupOptions& options) {
      return comm::create(backend, store, rank, size, options);
    });
  });
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(shm, ProcessGroupSuite,
                         testing::ValuesIn(cases("shm", {1, 2, 3, 4, 8}, run_forked)), case_name);

}  // namespace lockstep::test
