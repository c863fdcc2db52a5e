// Ranks as threads of one group of the local backend, for tests that look at what each rank threw.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "comm/local/hash_store.h"
#include "comm/process_group.h"
#include "core/base/parallel.h"

namespace lockstep::test {

using Group = std::shared_ptr<comm::ProcessGroup>;

// Runs `body` on `ranks` threads; returns what each rank threw, empty where all went well.
inline std::vector<std::string> run_group(int ranks,
                                          const std::function<void(const Group&)>& body) {
  const auto store = std::make_shared<comm::HashStore>();
  std::vector<std::string> failures(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      set_num_threads(1);  // of the process: its ranks are threads already
      try {
        body(comm::create("local", store, r, ranks));
      } catch (const std::exception& e) {
        failures[static_cast<size_t>(r)] = e.what();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return failures;
}

inline void expect_success(const std::vector<std::string>& failures) {
  for (size_t r = 0; r < failures.size(); ++r) EXPECT_EQ(failures[r], "") << "on rank " << r;
}

}  // namespace lockstep::test
