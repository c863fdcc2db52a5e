#include "comm/work.h"

#include <algorithm>

#include "comm/engine/lane.h"
#include "comm/engine/work_state.h"
#include "comm/interrupt.h"
#include "comm/peer_failure.h"
#include "core/base/error.h"
#include "core/trace/trace.h"

namespace lockstep::comm {
namespace {

// How long a call that is given up gets to say why it is not done: far more than the naps of those
// that wait in it.
constexpr Duration kLastWords = std::chrono::seconds(1);
// How long a wait that gave up stays until the call lets go of its tensors, once the group has
// ended: backends react at once, unless they are in the middle of a large copy.
constexpr Duration kLetGo = std::chrono::seconds(60);
// How often a wait looks for an interrupt.
constexpr Duration kBetweenLooks = std::chrono::milliseconds(25);

constexpr trace::Kind kWait{"wait", "wait", {{{"for", trace::Form::text}, {"sequence"}}}};

}  // namespace

WorkState::WorkState(std::string what, uint64_t number, const Patience& patience,
                     std::weak_ptr<Lane> lane, std::function<void(const std::string&)> end_group)
    : what_(std::move(what)),
      number_(number),
      patience_(patience),
      lane_(std::move(lane)),
      end_group_(std::move(end_group)) {}

void WorkState::queued(const Event& end) {
  const MutexLock lock(mutex_);
  end_ = end;
  answered_.store(true, std::memory_order_release);
  changed_.notify_all();
}

void WorkState::finish(std::exception_ptr error) {
  const MutexLock lock(mutex_);
  error_ = std::move(error);
  finished_at_ = Clock::now();
  done_.store(true, std::memory_order_release);
  answered_.store(true, std::memory_order_release);
  changed_.notify_all();
}

std::exception_ptr WorkState::error() const {
  const MutexLock lock(mutex_);
  return error_;
}

Limit WorkState::limit() const {
  const auto lane = lane_.lock();
  Limit limit = lane ? Limit(what_, patience_, lane->given_up(), number_)
                     : Limit(Deadline::after(patience_.limit), what_);
  const MutexLock lock(mutex_);
  if (!deadline_) deadline_ = limit.deadline();
  limit.set_deadline(*deadline_);
  return limit;
}

bool WorkState::given_up() const {
  const auto lane = lane_.lock();
  return lane && lane->given_up().covers(number_);
}

bool WorkState::withdrawn() const {
  const auto lane = lane_.lock();
  return lane && lane->given_up().withdrawn();
}

Duration WorkState::duration() const {
  const MutexLock lock(mutex_);
  return done() ? finished_at_ - submitted_ : Duration::zero();
}

bool WorkState::waits_on_queue() const {
  const MutexLock lock(mutex_);
  return !waits_.empty();
}

Duration WorkState::exposed_on_queue() const {
  Duration total{};
  const MutexLock lock(mutex_);
  for (const auto& [begin, end] : waits_)
    if (end.done()) total += end.since(begin);
  return total;
}

void WorkState::rethrow() const {
  if (const auto error = this->error()) std::rethrow_exception(error);
}

// The call keeps to its own limit, which starts when its turn comes; here the limit is of one wait,
// so a wait without a limit of its own must allow for the calls before.
void WorkState::wait() {
  const auto start = Clock::now();
  while (!answered()) {
    if (InterruptScope::interrupted()) return give_up(Clock::now() - start);
    wait_until_answered(patience_.limit, true);
  }
  take_result();
}

void WorkState::wait(Duration limit) {
  // Running the call ourselves would tie us to the call's limit.
  wait_until_answered(limit, limit >= patience_.limit);
  if (!answered()) return give_up(limit);
  take_result();
}

void WorkState::take_result() {
  if (done()) rethrow();
  const MutexLock lock(mutex_);
  if (end_.device() == kCpu) return;
  const Queue& queue = current_queue(end_.device());
  const Event begin = Event::record(queue);
  end_.wait(queue);
  waits_.emplace_back(begin, Event::record(queue));
}

// A call on a device ends at its own limit, or with its group.
void WorkState::synchronize() {
  const auto start = Clock::now();
  while (!done()) {
    if (InterruptScope::interrupted()) return give_up(Clock::now() - start);
    answered() ? wait_until_done(patience_.limit) : wait_until_answered(patience_.limit, true);
  }
  rethrow();
}

// The call knows what it is waiting for: it runs into its limit now and says so.
void WorkState::give_up(Duration waited) {
  const InterruptScope to_the_end(nullptr);
  if (const auto lane = lane_.lock()) lane->given_up().through(number_, waited);
  wait_until_answered(kLastWords, false);
  if (!answered()) {
    const std::string message =
        str("[comm] ", what_, " was not done after a wait of ", seconds(waited), " s");
    end_group_(message);
    wait_until_answered(kLetGo, false);
    throw FromPeer<TimeoutError>(
        done() ? message : message + "; the call does not react, and still uses its tensors");
  }
  try {
    take_result();
  } catch (const EnvironmentError& e) {
    // Also where a call in front of this one has said it.
    std::rethrow_exception(reworded(TimeoutError(""), e.what(), caused_by_peer(e)));
  }
}

void WorkState::wait_until_answered(Duration limit, bool may_help) {
  if (answered()) return;
  // The text begins with the operation.
  const trace::Span span(kWait, [&] {
    return trace::About{.values = {trace::as_value(trace::intern(
                                       std::string_view(what_).substr(0, what_.find(' ')))),
                                   static_cast<int64_t>(number_)}};
  });
  const Deadline deadline = Deadline::after(limit);
  const auto start = Clock::now();
  waiters_.fetch_add(1, std::memory_order_relaxed);
  if (may_help) {
    if (const auto lane = lane_.lock()) lane->help(*this);
  }
  {
    const MutexLock lock(mutex_);
    wait_for(deadline, [this] { return answered(); });
  }
  waiters_.fetch_sub(1, std::memory_order_relaxed);
  exposed_ns_.fetch_add((Clock::now() - start).count(), std::memory_order_relaxed);
}

void WorkState::wait_until_done(Duration limit) {
  const Deadline deadline = Deadline::after(limit);
  const MutexLock lock(mutex_);
  wait_for(deadline, [this] { return done(); });
}

// Until `ready`, the deadline, or an interrupt.
template <typename Ready>
void WorkState::wait_for(const Deadline& deadline, const Ready& ready) {
  if (!InterruptScope::watched()) {
    changed_.wait_until(mutex_, deadline.at(), ready);
    return;
  }
  // Without the mutex, which the work needs to finish: the check may take a while.
  const auto interrupted = [this]() LOCKSTEP_REQUIRES(mutex_) {
    const MutexUnlock unlock(mutex_);
    return InterruptScope::interrupted();
  };
  while (!ready() && !deadline.passed() && !interrupted())
    changed_.wait_for(mutex_, std::min(kBetweenLooks, deadline.remaining()), ready);
}

bool Work::done() const { return !state_ || state_->done(); }
std::exception_ptr Work::error() const { return state_ ? state_->error() : nullptr; }
void Work::wait() const {
  if (state_) state_->wait();
}
void Work::wait(Duration timeout) const {
  if (state_) state_->wait(timeout);
}
void Work::synchronize() const {
  if (state_) state_->synchronize();
}
Duration Work::duration() const { return state_ ? state_->duration() : Duration::zero(); }
Duration Work::exposed() const { return state_ ? state_->exposed() : Duration::zero(); }
Duration Work::exposed_on_queue() const {
  return state_ ? state_->exposed_on_queue() : Duration::zero();
}
bool Work::waits_on_queue() const { return state_ && state_->waits_on_queue(); }

}  // namespace lockstep::comm
