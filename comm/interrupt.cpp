#include "comm/interrupt.h"

namespace lockstep::comm {
namespace {

constexpr Duration kBetweenChecks = std::chrono::milliseconds(20);

thread_local InterruptScope* t_innermost = nullptr;

}  // namespace

InterruptScope::InterruptScope(bool (*check)()) : check_(check), outer_(t_innermost) {
  t_innermost = this;
}
InterruptScope::~InterruptScope() { t_innermost = outer_; }

bool InterruptScope::watched() { return t_innermost != nullptr && t_innermost->check_ != nullptr; }
bool InterruptScope::interrupted() { return watched() && t_innermost->ask(); }

bool InterruptScope::ask() {
  if (ended_) return true;
  const auto now = Clock::now();
  const bool first = next_ == Clock::time_point();
  if (!first && now < next_) return false;
  next_ = now + kBetweenChecks;
  ended_ = !first && check_();  // most waits are short, and need no check
  return ended_;
}

}  // namespace lockstep::comm
