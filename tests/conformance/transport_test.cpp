// The suite over a transport, the way that backends work which can only send and receive.
#include "tests/conformance/process_group_suite.h"
#include "tests/support/run_ranks.h"
#include "tests/support/thread_transport.h"

namespace lockstep::test {
namespace {

// The n-th group of a name on one rank meets the n-th on the others.
void run_over_transport(const std::string&, int size,
                        const std::function<void(const MakeGroup&)>& body) {
  Registry registry;
  run_threads(size, [&](int rank) {
    std::map<std::string, int> made;
    body([&](const GroupOptions& options) {
      const std::string name = options.name + "#" + std::to_string(++made[options.name]);
      const auto join = [&registry](const std::string& group, int members) {
        return registry.join(group, members);
      };
      return std::make_unique<ProcessGroup>(
          std::make_unique<TransportBackend>(join, name, rank, size), options);
    });
  });
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(transport, ProcessGroupSuite,
                         testing::ValuesIn(cases("transport", {2, 3, 4, 8}, run_over_transport)),
                         case_name);

}  // namespace lockstep::test
