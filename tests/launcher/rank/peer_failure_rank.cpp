// A rank for launcher_peer_failure_test: reduces for ever, until the last rank has an accident.
//
//   peer_failure_rank kill|throw|disagree
//
// Ends as `lockstep` does: reports what went wrong and returns 1. Before that, who can waits until
// all others have reported too, so that the agent must choose among all of them, whoever was the
// first.
#include <cstdio>
#include <string>

#include <signal.h>

#include "comm/peer_failure.h"
#include "comm/process_group.h"
#include "comm/text.h"
#include "core/base/error.h"
#include "launcher/rank/rank_env.h"

using namespace lockstep;

namespace {

constexpr auto kLimit = std::chrono::seconds(60);

void run(const launcher::RankEnv& rank, const std::shared_ptr<comm::Store>& store,
         const std::string& accident) {
  const auto world = comm::create("shm", store, rank.rank, rank.size, {.timeout = kLimit});
  const Tensor tensor = Tensor::zeros({1 << 18});
  for (int step = 0;; ++step) {
    const bool victim = rank.rank == rank.size - 1 && step == 20;
    if (victim && accident == "kill") ::raise(SIGKILL);
    if (victim && accident == "throw") throw std::runtime_error("the data is gone");
    if (accident == "disagree") {
      comm::agree(world.get(), [&] {
        check(!victim, "the folder is missing");
        return std::string();
      });
    }
    world->all_reduce(tensor).wait();
  }
}

// Waits for the others' reports, but for those of a rank that cannot report.
void meet(const launcher::RankEnv& rank, comm::Store& store, const std::string& accident) {
  store.set("reported/" + std::to_string(rank.rank), "");
  for (int other = 0; other < rank.size - (accident == "kill" ? 1 : 0); ++other)
    store.wait({"reported/" + std::to_string(other)}, kLimit);
}

}  // namespace

int main(int, char** arguments) {
  const std::string accident = arguments[1];
  const launcher::RankEnv rank = launcher::detect_rank();
  const auto store = launcher::connect_store();
  try {
    run(rank, store, accident);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    // The one that is to blame speaks last.
    if (!comm::caused_by_peer(error))
      for (int other = 0; other < rank.size - 1; ++other)
        store->wait({"reported/" + std::to_string(other)}, kLimit);
    launcher::report_failure(error.what(), comm::caused_by_peer(error));
    meet(rank, *store, accident);
  }
  return 1;
}
