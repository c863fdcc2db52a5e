// The conformance suite of ProcessGroup backends. A backend joins with one .cpp that says how its
// ranks start:
//
//   #include "tests/conformance/process_group_suite.h"
//   namespace lockstep::test {
//   INSTANTIATE_TEST_SUITE_P(shm, ProcessGroupSuite,
//                            testing::ValuesIn(cases("shm", {1, 2, 3, 4, 8}, run_forked)),
//                            case_name);
//   }
//
// The suite does not care how: `start` must run the body once for each rank, anywhere. Where groups
// are on a device, it opens a DeviceScope for each rank, and `make` gives the group that device.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "comm/peer_failure.h"
#include "comm/process_group.h"
#include "comm/store.h"
#include "comm/text.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "tests/conformance/reference.h"
#include "tests/support/devices.h"
#include "tests/support/gate.h"

namespace lockstep::test {

using comm::GroupOptions;
using comm::ProcessGroup;
using comm::ReduceOp;
using comm::ReduceTree;
using comm::Work;

// What a rank's body gets: groups of all ranks, made with these options.
using MakeGroup = std::function<std::unique_ptr<ProcessGroup>(const GroupOptions&)>;
// Runs body(make) for each of `size` ranks and fails the test where one does.
using StartRanks = std::function<void(const std::string& backend, int size,
                                      const std::function<void(const MakeGroup&)>& body)>;

struct SuiteCase {
  std::string backend;
  int size;
  StartRanks start;
  int devices = 0;  // CUDA devices that the ranks share; 0: their tensors are on the CPU
};

inline std::vector<SuiteCase> cases(const std::string& backend, const std::vector<int>& sizes,
                                    const StartRanks& start, int devices = 0) {
  std::vector<SuiteCase> list;
  for (const int size : sizes) list.push_back({backend, size, start, devices});
  return list;
}
inline std::string case_name(const testing::TestParamInfo<SuiteCase>& info) {
  return "ranks_" + std::to_string(info.param.size);
}
inline void PrintTo(const SuiteCase& c, std::ostream* out) {
  *out << c.backend << " with " << c.size << " ranks";
}

class ProcessGroupSuite : public testing::TestWithParam<SuiteCase> {
 protected:
  void SetUp() override {
    if (GetParam().devices > 0 && cuda_devices() == 0) GTEST_SKIP() << kNoDevice;
  }
  int size() const { return GetParam().size; }

  // Runs the body on each rank with a group of all.
  void run(const std::function<void(ProcessGroup&)>& body) {
    run_with({}, [&](ProcessGroup& group, const MakeGroup&) { body(group); });
  }
  void run_with(const GroupOptions& options,
                const std::function<void(ProcessGroup&, const MakeGroup&)>& body) {
    GetParam().start(GetParam().backend, size(), [&](const MakeGroup& make) {
      const auto group = make(options);
      body(*group, make);
    });
  }
};

// Whether the error that `body` throws says that another rank is the cause.
template <typename F>
bool blames_peer(F&& body) {
  try {
    body();
  } catch (const std::exception& e) {
    return comm::caused_by_peer(e);
  }
  ADD_FAILURE() << "expected an error";
  return false;
}

// The message of the error that `body` throws, which must be an E; empty where it throws nothing.
template <typename E, typename F>
std::string thrown(F&& body) {
  try {
    body();
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "another kind of error than expected: " << e.what();
  }
  return "";
}

}  // namespace lockstep::test

#include "tests/conformance/suite_failures.h"
#include "tests/conformance/suite_operations.h"
#include "tests/conformance/suite_tensors.h"
