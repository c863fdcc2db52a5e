#include "comm/engine/engine.h"

#include "comm/engine/failure_note.h"
#include "comm/peer_failure.h"
#include "core/base/log.h"
#include "core/trace/trace.h"

namespace lockstep::comm {
namespace {

// From here on a call is worth a thread of its own at once, so that it overlaps with what the
// caller does meanwhile.
constexpr int64_t kLargeBytes = 2 << 20;

// Of the calls before the one that ran into its limit, so many lines go to the log: those that run
// or wait say more.
constexpr size_t kEndedCallsShown = 3;

// How long a call on a device may still come to its end once something has gone wrong: if a peer
// has, and if this group has ended, which lets go of the tensors.
constexpr Duration kGrace = std::chrono::milliseconds(500);
constexpr Duration kLetGo = std::chrono::seconds(1);

// Bytes of the larger tensor. `slice`: those of one slice.
int64_t volume(Op op, int64_t slice, int size) {
  switch (op) {
    case Op::reduce_scatter:
    case Op::all_gather:
    case Op::gather:
    case Op::scatter:
    case Op::all_to_all: return size * slice;
    default: return slice;
  }
}

constexpr trace::Kind kCall{"comm",
                            "call",
                            {{{"bytes"},
                              {"dtype", trace::Form::dtype},
                              {"sequence"},
                              {"group", trace::Form::text},
                              {"ranks"},
                              {"peer"}}}};

// For the timeline: a call as this rank runs it, until all ranks have come and, on a CPU, the
// results are there. `bytes`: of the larger tensor.
trace::About about_call(const Fingerprint& call, const Backend& backend, const std::string& group) {
  const int64_t bytes = volume(call.op, call.count * size_of(call.dtype), backend.size());
  return {.values = {bytes, static_cast<int64_t>(call.dtype), static_cast<int64_t>(call.sequence),
                     trace::as_value(trace::intern(group)), backend.size(), call.root},
          .bytes = bytes,
          .name = trace::intern(name_of(call.op)),
          .queued = backend.device() != kCpu};
}

// (op, peer) as the lane sees it.
std::pair<Op, int> lane_key(Op op, int peer) {
  return point_to_point(op) ? std::pair(op, peer) : std::pair(Op::barrier, -1);
}

}  // namespace

Engine::Engine(std::unique_ptr<Backend> backend, const GroupOptions& options)
    : backend_(std::move(backend)),
      options_(options),
      patience_(patience_of(options.timeout)),
      group_hash_(hash_name(options.name)) {}

std::string Engine::where(const Fingerprint& fingerprint) const {
  return str(describe(fingerprint), " in group '", options_.name, "' on rank ", backend_->rank(),
             " of ", backend_->size());
}

Engine::End Engine::ended() const {
  const MutexLock lock(mutex_);
  return ended_;
}

Work Engine::submit(Call call, const ReduceTree* tree, std::vector<Tensor> tensors) {
  const int peer = call.root;
  // The caller's tree may be gone when the call runs.
  auto own_tree = tree ? std::make_shared<ReduceTree>(*tree) : nullptr;
  // The caller of a call on a device seldom waits for it at once, if it waits at all.
  const bool large =
      volume(call.op, call.bytes(), backend_->size()) >= kLargeBytes || backend_->device() != kCpu;
  return enqueue(call.op, peer, call.fingerprint, large, call.ready,
                 [this, call, own_tree, tensors = std::move(tensors)](
                     const Fingerprint& fingerprint, const WorkState& work) mutable {
                   call.fingerprint = fingerprint;
                   call.tree = own_tree.get();
                   call.limit = work.limit();
                   call.waiters = &work.waiters();
                   return backend_->execute(call);
                 });
}

Work Engine::submit_body(const Fingerprint& fingerprint, Body body) {
  return enqueue(Op::barrier, -1, fingerprint, false, {}, std::move(body));
}

Work Engine::enqueue(Op op, int peer, Fingerprint fingerprint, bool large, const Event& ready,
                     Body body) {
  const auto self = shared_from_this();
  const auto end_group = [engine = weak_from_this()](const std::string& reason) {
    if (const auto alive = engine.lock()) alive->abort(reason, true);
  };
  const MutexLock lock(mutex_);
  auto& lane = lanes_[lane_key(op, peer)];
  if (!lane) lane = std::make_shared<Lane>();
  uint64_t& last = sequences_[lane_key(op, peer)];
  fingerprint.group = group_hash_;
  fingerprint.sequence = last + 1;
  auto work = std::make_shared<WorkState>(where(fingerprint), fingerprint.sequence, patience_, lane,
                                          end_group);
  const uint64_t entry = recorder_.submitted(fingerprint);
  try {
    lane->submit({.work = work,
                  .run =
                      [self, work, fingerprint, entry, ready, body = std::move(body)]() mutable {
                        self->run(work, fingerprint, entry, ready, std::move(body));
                      },
                  .large = large});
  } catch (...) {
    recorder_.finished(entry, false);
    throw;
  }
  ++last;
  return Work(work);
}

std::exception_ptr Engine::failure_of_ended(const End& end) {
  return reworded(EnvironmentError(""), "the group has ended: " + end.reason, end.by_peer);
}

void Engine::run(const std::shared_ptr<WorkState>& work, const Fingerprint& fingerprint,
                 uint64_t entry, const Event& ready, Body body) {
  std::exception_ptr error;
  Event end;
  if (const End over = ended(); !over.reason.empty()) {
    error = reworded(EnvironmentError(""),
                     str("[comm] ", work->what(), ": the group has ended: ", over.reason),
                     over.by_peer);
  } else {
    recorder_.started(entry);
    const trace::Span span(kCall,
                           [&] { return about_call(fingerprint, *backend_, options_.name); });
    try {
      end = body(fingerprint, *work);
    } catch (...) {
      error = failure_of(*work);
    }
  }
  body = nullptr;
  if (!error && end.device() != kCpu) return watch(work, entry, ready, end);
  recorder_.finished(entry, !error);
  work->finish(error);
}

void Engine::watch(const std::shared_ptr<WorkState>& work, uint64_t entry, const Event& ready,
                   const Event& end) {
  work->queued(end);
  const auto call = std::make_shared<QueuedCall>(work->what(), ready, end);
  const auto finish = [this, work, entry](std::exception_ptr failure) {
    // An abort brings calls to an end, too, and nobody can tell which.
    if (const End over = ended(); !failure && !over.reason.empty())
      failure = failure_of_ended(over);
    if (failure) {
      try {
        std::rethrow_exception(failure);
      } catch (...) {
        failure = failure_of(*work);
      }
    }
    recorder_.finished(entry, !failure);
    work->finish(failure);
  };
  const Limit limit = work->limit();
  try {
    watchdog_.add({.end = end,
                   .order = work->lane(),
                   .check = [this, call, ready, limit] { return look_at(*call, ready, limit); },
                   .finish = finish});
  } catch (...) {  // the system grants no thread
    finish(std::current_exception());
  }
}

Watchdog::Verdict Engine::look_at(const QueuedCall& call, const Event& ready, const Limit& limit) {
  if (const End over = ended(); !over.reason.empty()) return {failure_of_ended(over), kLetGo};
  try {
    backend_->check_running();
  } catch (...) {
    return {std::current_exception(), kGrace};
  }
  if (!limit.passed_in_time()) return {};
  // A rank whose own device has not come says so at once, and the others hear of it meanwhile.
  if (!ready.done()) {
    if (const std::string other = call.device_waits_in(); !other.empty())
      return {std::make_exception_ptr(FromPeer<TimeoutError>(
                  str(limit.reached(), ": ", backend_->device(), " of rank ", backend_->rank(),
                      " has not come to the call: it waits for another rank's device in ", other))),
              kGrace};
    return {std::make_exception_ptr(TimeoutError(
                str(limit.reached(), ": ", backend_->device(), " of rank ", backend_->rank(),
                    " has not done what was queued before the call"))),
            Duration::zero()};
  }
  return {std::make_exception_ptr(FromPeer<TimeoutError>(
              str(limit.reached(), ": all ranks have come to the call, and ", backend_->device(),
                  " of rank ", backend_->rank(), " waits in it for another rank's device"))),
          kGrace};
}

Work Engine::done_here(Op op, int peer, Fingerprint fingerprint,
                       const std::function<void()>& body) {
  {
    const MutexLock lock(mutex_);
    fingerprint.group = group_hash_;
    fingerprint.sequence = ++sequences_[lane_key(op, peer)];
  }
  const auto work = std::make_shared<WorkState>(where(fingerprint), fingerprint.sequence, patience_,
                                                std::weak_ptr<Lane>(), nullptr);
  run(work, fingerprint, recorder_.submitted(fingerprint), {},
      [&](const Fingerprint&, const WorkState&) {
        body();
        return Event();
      });
  return Work(work);
}

std::exception_ptr Engine::failure_of(const WorkState& work) {
  try {
    throw;
  } catch (const std::exception& e) {
    std::string message = str("[comm] ", work.what(), ": ", e.what());
    const bool late = dynamic_cast<const TimeoutError*>(&e);
    if (work.withdrawn()) return reworded(EnvironmentError(""), message, false);
    if (late && !work.given_up())
      message += "; GroupOptions::timeout (train: parallel.timeout_s) sets the limit";
    note_failure();
    // As things were before the abort, which ends other calls; told after it, since a screen may be
    // slow.
    FlightRecorder::Excerpt calls;
    if (late) calls = recorder_.excerpt(kEndedCallsShown);
    abort(message, caused_by_peer(e));
    log_calls(calls);
    // A call that was under way when this rank itself ended the group only sees that somebody has.
    return reworded(e, message, ended().by_peer);
  }
}

void Engine::log_calls(const FlightRecorder::Excerpt& calls) const {
  const std::string group = str("[comm] group '", options_.name, "': ");
  for (const std::string& line : calls.left_out) log::debug(group, line);
  if (!calls.left_out.empty())
    log::error(group, calls.left_out.size(), " more of the last ",
               calls.left_out.size() + calls.shown.size(),
               " calls have ended; LOCKSTEP_LOG_LEVEL=debug shows them, too");
  for (const std::string& line : calls.shown) log::error(group, line);
}

void Engine::abort(const std::string& reason, bool by_peer) {
  std::shared_ptr<Engine> other;
  {
    const MutexLock lock(mutex_);
    if (ended_.reason.empty()) {
      ended_ = {reason.empty() ? "aborted" : reason, by_peer};
      other = coupled_.lock();
    }
  }
  // First the host's group, whose waiters then know: a device's backend may take its time.
  if (other) other->abort(reason, by_peer);
  backend_->abort(reason);
}

void Engine::couple(const std::shared_ptr<Engine>& a, const std::shared_ptr<Engine>& b) {
  const auto couple_to = [](Engine& engine, const std::shared_ptr<Engine>& other) {
    const MutexLock lock(engine.mutex_);
    engine.coupled_ = other;
  };
  couple_to(*a, b);
  couple_to(*b, a);
}

void Engine::close() {
  std::map<LaneKey, std::shared_ptr<Lane>> lanes;
  {
    const MutexLock lock(mutex_);
    lanes.swap(lanes_);
  }
  for (const auto& [key, lane] : lanes)
    if (key.first == Op::recv) lane->given_up().withdraw();
  for (const auto& [key, lane] : lanes) lane->close();
  watchdog_.close();
}

}  // namespace lockstep::comm
