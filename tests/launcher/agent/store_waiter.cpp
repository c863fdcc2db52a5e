// A rank for tests: rank 0 fails with 7 once rank 1 is about to wait in the store for what nobody
// sets; SIGTERM is noted and no more.
#include <csignal>
#include <cstdio>

#include "core/base/error.h"
#include "launcher/rank/rank_env.h"

int main() {
  using namespace lockstep;
  std::signal(SIGTERM, [](int) {});
  const auto store = launcher::connect_store();
  try {
    if (launcher::detect_rank().rank == 0) {
      store->get("waits", std::chrono::seconds(60));
      return 7;
    }
    store->set("waits", "");
    store->get("never", std::chrono::hours(1));
  } catch (const Error& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  return 0;
}
