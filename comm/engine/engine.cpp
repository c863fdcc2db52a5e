#include "comm/engine/engine.h"

#include "comm/engine/failure_note.h"
#include "comm/peer_failure.h"
#include "core/base/log.h"

namespace lockstep::comm {
namespace {

// From here on a call is worth a thread of its own at once, so that it overlaps with what the
// caller does meanwhile.
constexpr int64_t kLargeBytes = 2 << 20;

// Of the calls before the one that ran into its limit, so many lines go to the log: those that run
// or wait say more.
constexpr size_t kEndedCallsShown = 3;

// Bytes of the larger tensor.
int64_t volume(const Call& call, int size) {
  switch (call.op) {
    case Op::reduce_scatter:
    case Op::all_gather:
    case Op::gather:
    case Op::scatter:
    case Op::all_to_all: return size * call.bytes();
    default: return call.bytes();
  }
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
  return enqueue(call.op, peer, call.fingerprint, volume(call, backend_->size()) >= kLargeBytes,
                 [this, call, own_tree, tensors = std::move(tensors)](
                     const Fingerprint& fingerprint, const WorkState& work) mutable {
                   call.fingerprint = fingerprint;
                   call.tree = own_tree.get();
                   call.limit = work.limit();
                   call.waiters = &work.waiters();
                   backend_->execute(call);
                 });
}

Work Engine::submit_body(const Fingerprint& fingerprint, Body body) {
  return enqueue(Op::barrier, -1, fingerprint, false, std::move(body));
}

Work Engine::enqueue(Op op, int peer, Fingerprint fingerprint, bool large, Body body) {
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
                      [self, work, fingerprint, entry, body = std::move(body)]() mutable {
                        self->run(*work, fingerprint, entry, std::move(body));
                      },
                  .large = large});
  } catch (...) {
    recorder_.finished(entry, false);
    throw;
  }
  ++last;
  return Work(work);
}

void Engine::run(WorkState& work, const Fingerprint& fingerprint, uint64_t entry, Body body) {
  std::exception_ptr error;
  if (const End end = ended(); !end.reason.empty()) {
    error = reworded(EnvironmentError(""),
                     str("[comm] ", where(fingerprint), ": the group has ended: ", end.reason),
                     end.by_peer);
  } else {
    recorder_.started(entry);
    try {
      body(fingerprint, work);
    } catch (...) {
      error = failure_of(work);
    }
  }
  body = nullptr;
  recorder_.finished(entry, !error);
  work.finish(error);
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
  run(*work, fingerprint, recorder_.submitted(fingerprint),
      [&](const Fingerprint&, const WorkState&) { body(); });
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
  backend_->abort(reason);
  if (other) other->abort(reason, by_peer);
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
}

}  // namespace lockstep::comm
