#include "comm/long_agreement.h"

#include <chrono>
#include <exception>
#include <future>

#include "comm/text.h"
#include "core/base/error.h"
#include "core/base/thread.h"

namespace lockstep::comm {
namespace {

// Far below the time limit of any collective, yet rare enough to cost nothing.
constexpr auto kSignOfLife = std::chrono::milliseconds(500);

}  // namespace

std::vector<std::string> agree_on_long_work(
    ProcessGroup* group, const std::function<std::string(const std::atomic<bool>& stop)>& local) {
  std::atomic<bool> stop = false, failed = false;
  if (!group || group->size() == 1) return comm::agree(group, [&] { return local(stop); });
  const auto guarded = [&] {
    try {
      return local(stop);
    } catch (...) {
      failed = true;
      throw;
    }
  };
  std::future<std::string> work;
  try {
    work = start_async("for this rank's part in a checkpoint", guarded);
  } catch (const EnvironmentError&) {  // the others must hear of it, as of any failure of the work
                                       // itself
    failed = true;
    std::promise<std::string> refused;
    refused.set_exception(std::current_exception());
    work = refused.get_future();
  }
  try {
    for (bool all_ended = false; !all_ended;) {
      const bool ended = work.wait_for(kSignOfLife) == std::future_status::ready;
      // The minimum over all ranks: "all have ended" and "none has failed".
      const Tensor state = Tensor::from(std::vector<int32_t>{ended, !failed}, {2});
      group->host().all_reduce(state, {.op = comm::ReduceOp::min}).wait();
      all_ended = state.data<int32_t>()[0] != 0;
      if (state.data<int32_t>()[1] == 0) stop = true;
    }
  } catch (...) {
    stop = true;  // the group has ended, so nobody needs the result of `work`
    throw;
  }
  return comm::agree(group, [&] { return work.get(); });
}

}  // namespace lockstep::comm
