// The suite with ranks as threads.
#include "comm/local/hash_store.h"
#include "tests/conformance/process_group_suite.h"
#include "tests/support/run_ranks.h"

namespace lockstep::test {
namespace {

void run_as_threads(const std::string& backend, int size,
                    const std::function<void(const MakeGroup&)>& body) {
  const auto store = std::make_shared<comm::HashStore>();
  run_threads(size, [&](int rank) {
    body([&](const GroupOptions& options) {
      return comm::create(backend, store, rank, size, options);
    });
  });
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(local, ProcessGroupSuite,
                         testing::ValuesIn(cases("local", {1, 2, 3, 4, 8}, run_as_threads)),
                         case_name);

}  // namespace lockstep::test
