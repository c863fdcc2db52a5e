#include "launcher/agent/farewell.h"

#include <poll.h>

namespace lockstep::launcher {

namespace {

constexpr auto kStep = std::chrono::milliseconds(20);

}  // namespace

bool Farewell::wait_until(const std::function<bool()>& ready, Duration limit) {
  const Deadline deadline = Deadline::after(limit);
  while (!ready()) {
    if (deadline.passed()) return false;
    pollfd poll{signals_.fd(), POLLIN, 0};
    ::poll(&poll, 1, static_cast<int>(kStep.count()));
    if (somebody_insists()) return ready();
  }
  return true;
}

bool Farewell::somebody_insists() {
  bool insists = false;
  while (const auto arrival = signals_.next()) {
    if (arrival->signal == SIGUSR1 && !usr1_asks_) continue;
    if (wish_.take(arrival->signal, arrival->at) == StopWish::Meaning::insist) insists = true;
  }
  return insists;
}

}  // namespace lockstep::launcher
