#include "comm/ucx/worker.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>

#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include "comm/ucx/library.h"
#include "core/base/error.h"
#include "core/base/log.h"

namespace lockstep::comm::ucx {
namespace {

constexpr unsigned kNoteId = 1;
constexpr int kChannelBits = 2;
constexpr int kSenderBits = 20;
// After this long without data a waiter sleeps; until then it yields, since the answer is near.
constexpr Duration kQuiet = std::chrono::microseconds(5);
// How often a waiter moves data before it looks at its limits again.
constexpr int kMovesAtOnce = 64;
// For how long the group's own thread leaves the data to those who wait.
constexpr Duration kStandAside = std::chrono::milliseconds(10);
// How long the end of a group waits for what it has sent, and a failure for the notes about it.
constexpr Duration kFlushLimit = std::chrono::seconds(1);
constexpr Duration kNotesLimit = std::chrono::milliseconds(200);

// The workers of this process that may call UCX.
struct Living {
  Mutex mutex;
  std::set<Worker*> workers LOCKSTEP_GUARDED_BY(mutex);
};
Living& living() {
  static Living& instance = *new Living;
  return instance;
}

void poll_for(int fd, Duration nap) {
  const auto ns = std::max<Duration>(nap, Duration::zero()).count();
  const timespec limit{static_cast<time_t>(ns / 1'000'000'000),
                       static_cast<long>(ns % 1'000'000'000)};
  pollfd events{fd, POLLIN, 0};
  ::ppoll(&events, 1, &limit, nullptr);
}

}  // namespace

struct Worker::Connection {
  Worker* worker;
  int peer;
  ucp_ep_h endpoint = nullptr;
  bool failed = false;
  bool flushing = false;
};

struct Worker::Note {
  struct Header {
    uint64_t group;
    uint32_t sender;
    NoteKind kind;
  };
  Worker* worker;
  int peer;
  Header header;
  std::string text;
};

Worker::Worker(Events events) : events_(std::move(events)), process_(::getpid()) {
  const Library& l = library();
  static const int registered = std::atexit([] {
    try {
      retire_all();
    } catch (const std::exception&) {
      // No memory for the notes.
    }
  });
  static_cast<void>(registered);
  ucp_worker_params_t params{};
  params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  const MutexLock lock(mutex_);
  check_ucx(l.worker_create(context(), &params, &worker_), "ucp_worker_create");
  try {
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                         UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = kNoteId;
    handler.cb = &Worker::on_note;
    handler.arg = this;
    check_ucx(l.worker_set_am_recv_handler(worker_, &handler), "ucp_worker_set_am_recv_handler");
    check_ucx(l.worker_get_efd(worker_, &events_fd_), "ucp_worker_get_efd");
    ucp_address_t* address = nullptr;
    size_t bytes = 0;
    check_ucx(l.worker_get_address(worker_, &address, &bytes), "ucp_worker_get_address");
    address_.assign(reinterpret_cast<const char*>(address), bytes);
    l.worker_release_address(worker_, address);
  } catch (...) {
    l.worker_destroy(worker_);
    throw;
  }
  const MutexLock living_lock(living().mutex);
  living().workers.insert(this);
}

Worker::~Worker() {
  {
    const MutexLock lock(living().mutex);
    living().workers.erase(this);
  }
  const MutexLock lock(mutex_);
  if (retired_ || process_ != ::getpid()) {
    // UCX still knows these.
    for (auto& c : connections_) static_cast<void>(c.release());
    for (auto& o : orphans_) static_cast<void>(o.release());
    return;
  }
  flush();
  for (auto& c : connections_) close(*c);
  library().worker_destroy(worker_);
}

// The others learn that the rank has left; nobody waits for it as for one that died.
void Worker::retire_all() {
  const MutexLock living_lock(living().mutex);
  for (Worker* worker : living().workers) {
    if (worker->process_ != ::getpid())
      return;  // a forked child: another thread may hold the mutex
    const MutexLock lock(worker->mutex_);
    if (worker->retired_) continue;
    for (const auto& c : worker->connections_)
      if (c->endpoint) worker->post(c->peer, NoteKind::left, "");
    worker->flush();
    worker->retired_ = true;
  }
}

void Worker::connect(uint64_t group, int rank, const std::vector<std::string>& addresses) {
  const MutexLock lock(mutex_);
  group_ = group;
  rank_ = rank;
  check(addresses.size() <= size_t{1} << kSenderBits, "[ucx] at most ", 1 << kSenderBits,
        " ranks, got ", addresses.size());
  for (size_t r = 0; r < addresses.size(); ++r) {
    auto& c = connections_.emplace_back(std::make_unique<Connection>());
    c->worker = this;
    c->peer = static_cast<int>(r);
    if (c->peer == rank) continue;
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                        UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t*>(addresses[r].data());
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler = {&Worker::on_error, c.get()};
    const ucs_status_t status = library().ep_create(worker_, &params, &c->endpoint);
    if (status != UCS_OK) {
      c->failed = true;
      c->endpoint = nullptr;
      events_.lost(c->peer, text_of(status));
    }
  }
}

// Message tags: the group's 42 bits, the channel, the sender.
uint64_t Worker::tag(int sender, uint8_t channel) const {
  return group_ << (kChannelBits + kSenderBits) | uint64_t{channel} << kSenderBits |
         static_cast<uint64_t>(sender);
}

Request& Worker::add(Pending& pending, Request::Kind kind, int peer, size_t bytes) {
  Request& request = pending.requests.emplace_back();
  request.kind = kind;
  request.peer = peer;
  request.bytes = bytes;
  request.owner = &pending;
  ++pending.unfinished;
  return request;
}

void Worker::started(Request& request, ucs_status_ptr_t result) {
  if (UCS_PTR_IS_ERR(result))
    end(request, UCS_PTR_STATUS(result));
  else if (!result)
    end(request, UCS_OK);
  else if (!request.done)  // else its callback has run already
    request.handle = result;
}

void Worker::end(Request& request, ucs_status_t status) {
  request.done = true;
  request.handle = nullptr;
  request.status = status;
  Pending* const owner = request.owner;
  if (!owner) return;
  --owner->unfinished;
  owner->failed |= status != UCS_OK;
  owner->moved = true;
  if (owner != leader_ && (owner->done() || owner->failed)) owner->changed.notify_one();
}

void Worker::send(Pending& pending, int peer, uint8_t channel, const void* data, size_t bytes) {
  Request& request = add(pending, Request::Kind::send, peer, bytes);
  const Connection& c = *connections_[static_cast<size_t>(peer)];
  if (retired_ || !c.endpoint || c.failed) return end(request, UCS_ERR_NOT_CONNECTED);
  if (bytes <= kSmall) {
    request.copied = true;
    if (bytes > 0) std::memcpy(request.copy.data(), data, bytes);
    data = request.copy.data();
  }
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = &Worker::on_sent;
  params.user_data = &request;
  started(request, library().tag_send_nbx(c.endpoint, data, bytes, tag(rank_, channel), &params));
}

void Worker::receive(Pending& pending, int peer, uint8_t channel, void* data, size_t bytes,
                     size_t* got) {
  Request& request = add(pending, Request::Kind::receive, peer, bytes);
  request.got = got;
  if (retired_) return end(request, UCS_ERR_NOT_CONNECTED);
  ucp_request_param_t params{};
  // Always the callback: only there UCX says how long the message was.
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  params.cb.recv = &Worker::on_received;
  params.user_data = &request;
  const auto result =
      library().tag_recv_nbx(worker_, data, bytes, tag(peer, channel), ~ucp_tag_t{0}, &params);
  if (!request.done) started(request, result);
}

void Worker::post(int peer, NoteKind kind, std::string_view text) {
  const Connection& c = *connections_[static_cast<size_t>(peer)];
  if (retired_ || !c.endpoint || c.failed) return;
  Note& note = notes_.emplace_back(Note{this,
                                        peer,
                                        {group_, static_cast<uint32_t>(rank_), kind},
                                        std::string(text.substr(0, kLongestNote))});
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = &Worker::on_posted;
  params.user_data = &note;
  const auto result = library().am_send_nbx(c.endpoint, kNoteId, &note.header, sizeof note.header,
                                            note.text.data(), note.text.size(), &params);
  if (!result || UCS_PTR_IS_ERR(result)) notes_.pop_back();
}

// The callbacks run inside of UCX's functions, which are called with the mutex held.
void Worker::on_sent(void* handle, ucs_status_t status,
                     void* request) LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
  Request& r = *static_cast<Request*>(request);
  if (r.owner)
    r.owner->worker->end(r, status);
  else
    r.done = true;
  library().request_free(handle);
}

void Worker::on_received(void* handle, ucs_status_t status, const ucp_tag_recv_info_t* info,
                         void* request) LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
  Request& r = *static_cast<Request*>(request);
  // Equal on both sides of a right program; a shorter message would leave old bytes behind it.
  if (status == UCS_OK && !r.got && info->length != r.bytes) status = UCS_ERR_MESSAGE_TRUNCATED;
  if (status == UCS_OK && r.got) *r.got = info->length;
  on_sent(handle, status, request);
}

void Worker::on_posted(void* handle, ucs_status_t, void* note) LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
  Worker& worker = *static_cast<Note*>(note)->worker;
  worker.notes_.remove_if([note](const Note& n) { return &n == note; });
  library().request_free(handle);
}

// Whatever comes: only a note of this group, from one of its ranks, is looked at.
ucs_status_t Worker::on_note(void* self, const void* header, size_t header_bytes, void* data,
                             size_t bytes,
                             const ucp_am_recv_param_t* param) LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
  Worker& worker = *static_cast<Worker*>(self);
  Note::Header h{};
  if (header_bytes != sizeof h || bytes > kLongestNote ||
      (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV))
    return UCS_OK;
  std::memcpy(&h, header, sizeof h);
  if (h.group == worker.group_ && h.sender < worker.connections_.size() &&
      static_cast<int>(h.sender) != worker.rank_) {
    worker.events_.note(static_cast<int>(h.sender), h.kind,
                        std::string_view(static_cast<const char*>(data), bytes));
    if (h.kind != NoteKind::beat) worker.wake();
  }
  return UCS_OK;
}

void Worker::on_error(void* connection, ucp_ep_h,
                      ucs_status_t status) LOCKSTEP_NO_THREAD_SAFETY_ANALYSIS {
  Connection& c = *static_cast<Connection*>(connection);
  c.failed = true;
  c.worker->events_.lost(c.peer, text_of(status));
  c.worker->wake();
}

void Worker::on_flushed(void* handle, ucs_status_t, void* connection) {
  static_cast<Connection*>(connection)->flushing = false;
  library().request_free(handle);
}

bool Worker::progress() { return !retired_ && library().worker_progress(worker_) != 0; }

void Worker::drain() {
  for (int i = 0; i < 16 * kMovesAtOnce && progress(); ++i) {
  }
}

void Worker::sleep(Duration nap) {
  if (!retired_) {
    const ucs_status_t status = library().worker_arm(worker_);
    if (status == UCS_ERR_BUSY) return;
    check_ucx(status, "ucp_worker_arm");
  }
  const Duration longest = retired_ ? std::min<Duration>(nap, kStandAside) : nap;
  const MutexUnlock unlocked(mutex_);
  poll_for(events_fd_, longest);
}

void Worker::await(Pending& pending, Duration nap) {
  if (!pending.listed) {
    ++uses_;
    waiting_.push_back(&pending);
    pending.listed = true;
  }
  if (!leader_) return lead(pending, nap);
  if (!pending.moved) pending.changed.wait_for(mutex_, nap);
  pending.moved = false;
}

void Worker::lead(Pending& pending, Duration nap) {
  leader_ = &pending;
  bool any = false;
  for (int i = 0; i < kMovesAtOnce && !pending.done() && progress(); ++i) any = true;
  if (any) pending.quiet_since = Clock::now();
  if (!any && !pending.moved && !pending.done()) {
    if (Clock::now() - pending.quiet_since < kQuiet) {
      const MutexUnlock unlocked(mutex_);
      ::sched_yield();
    } else {
      sleep(nap);
    }
  }
  pending.moved = false;
  leader_ = nullptr;
}

void Worker::finish(Pending& pending) {
  if (!pending.done()) cancel(pending);
  if (!pending.listed) return;
  waiting_.remove(&pending);
  pending.listed = false;
  if (leader_ || waiting_.empty()) return;
  waiting_.front()->moved = true;
  waiting_.front()->changed.notify_one();
}

void Worker::wake() {
  for (Pending* p : waiting_) {
    p->moved = true;
    p->changed.notify_one();
  }
  idle_.notify_all();
  if (!retired_) library().worker_signal(worker_);
}

void Worker::keep(Deadline deadline) {
  const bool in_use = !waiting_.empty() || uses_ != uses_kept_;
  uses_kept_ = uses_;
  if (in_use || retired_)
    return idle_.wait_until(mutex_, std::min(deadline.at(), Clock::now() + kStandAside));
  drain();
  sleep(deadline.remaining());
}

void Worker::progress_until(Deadline deadline, const std::function<bool()>& ready) {
  while (!ready() && !deadline.passed() && !retired_) {
    if (progress()) continue;
    const MutexUnlock unlocked(mutex_);
    ::sched_yield();
  }
}

void Worker::close(Connection& connection) {
  if (!connection.endpoint || retired_) return;
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const auto result = library().ep_close_nbx(connection.endpoint, &params);
  connection.endpoint = nullptr;
  if (UCS_PTR_IS_PTR(result)) library().request_free(result);
}

void Worker::flush() {
  for (auto& c : connections_) {
    if (!c->endpoint || c->failed) continue;
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
    params.cb.send = &Worker::on_flushed;
    params.user_data = c.get();
    c->flushing = UCS_PTR_IS_PTR(library().ep_flush_nbx(c->endpoint, &params));
  }
  progress_until(Deadline::after(kFlushLimit), [&]() LOCKSTEP_REQUIRES(mutex_) {
    return std::none_of(connections_.begin(), connections_.end(),
                        [](const auto& c) { return c->flushing && !c->failed; });
  });
}

void Worker::cancel(Pending& pending) {
  const auto shared = [](const Request& r) { return !r.done && !r.copied; };
  for (Request& r : pending.requests)
    if (!retired_ && r.kind == Request::Kind::receive && r.handle)
      library().request_cancel(worker_, r.handle);
  drain();
  if (std::any_of(pending.requests.begin(), pending.requests.end(), shared)) {
    // UCX 1.13 crashes when a connection is closed in the middle of a transfer and data moves
    // afterwards. So nothing moves any more: over TCP, memory is touched only when we let it.
    progress_until(Deadline::after(kNotesLimit),
                   [&]() LOCKSTEP_REQUIRES(mutex_) { return notes_.empty(); });
    log::debug("[ucx] a transfer was given up half-way: this group's connections stand still");
    retired_ = true;
  }
  if (pending.done()) return;
  for (Request& r : pending.requests) r.owner = nullptr;
  pending.unfinished = 0;
  orphans_.push_back(std::make_unique<std::deque<Request>>(std::move(pending.requests)));
}

}  // namespace lockstep::comm::ucx
