// Worker: one group's door to UCX: its connections, its messages, and who moves them.
//
// Each group has a worker of its own. So what happens to one group touches no other, and a group
// that ends can take all of its connections with it.
//
// Threads that wait move the data. One of them at a time sleeps on the worker's events (the
// leader); the others are woken when something of theirs has ended. While nobody waits, the group's
// own thread leads (keep()).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <ucp/api/ucp.h>

#include "comm/ucx/pending.h"
#include "core/base/clock.h"
#include "core/base/mutex.h"

namespace lockstep::comm::ucx {

// A short message that nobody waits for: it is handed over when it comes.
enum class NoteKind : uint32_t { beat, left, aborted };

// Longer texts are cut.
inline constexpr size_t kLongestNote = 1000;

class Worker {
 public:
  // What comes by itself; called under the mutex, by whichever thread moves data. They throw
  // nothing.
  struct Events {
    std::function<void(int from, NoteKind kind, std::string_view text)> note;
    std::function<void(int peer, const std::string& why)> lost;  // its connection is broken
  };

  explicit Worker(Events events);
  // Closes the connections: what was sent before is delivered first, for a moment at most.
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Where others reach this worker; any bytes.
  const std::string& address() const { return address_; }
  // Connects to all ranks but this one, whose address is not looked at. `group`: what the messages
  // of this group carry, equal on all ranks, and different for any other group.
  void connect(uint64_t group, int rank, const std::vector<std::string>& addresses);

  // Every function below is called with the mutex held.
  Mutex& mutex() const LOCKSTEP_RETURNS(mutex_) { return mutex_; }

  // Messages of different channels (0 to 3) never meet. The memory must live until the request is
  // done or cancel() has returned.
  void send(Pending& pending, int peer, uint8_t channel, const void* data, size_t bytes)
      LOCKSTEP_REQUIRES(mutex_);
  // `got`: as in Transport::Receive.
  void receive(Pending& pending, int peer, uint8_t channel, void* data, size_t bytes, size_t* got)
      LOCKSTEP_REQUIRES(mutex_);
  void post(int peer, NoteKind kind, std::string_view text) LOCKSTEP_REQUIRES(mutex_);

  // Moves data, or sleeps, until something of `pending` has ended, wake() is called, or about `nap`
  // has passed. The caller looks and calls again. Between two calls the mutex may be given back.
  void await(Pending& pending, Duration nap) LOCKSTEP_REQUIRES(mutex_);
  // Moves all that can be moved without waiting.
  void drain() LOCKSTEP_REQUIRES(mutex_);
  // After the last await(): gives up what has not ended. UCX touches the memory no more.
  void finish(Pending& pending) LOCKSTEP_REQUIRES(mutex_);
  // All that wait look again.
  void wake() LOCKSTEP_REQUIRES(mutex_);
  // For the group's own thread, again and again: leads while nobody waits. Returns at an event, at
  // wake(), after a few milliseconds in which others lead, or at the deadline.
  void keep(Deadline deadline) LOCKSTEP_REQUIRES(mutex_);

 private:
  // For the end of the process, when UCX's own destructors run: no worker calls UCX any more.
  static void retire_all();

  struct Connection;
  struct Note;
  static ucs_status_t on_note(void* self, const void* header, size_t header_bytes, void* data,
                              size_t bytes, const ucp_am_recv_param_t* param);
  static void on_error(void* connection, ucp_ep_h, ucs_status_t status);
  static void on_sent(void* handle, ucs_status_t status, void* request);
  static void on_received(void* handle, ucs_status_t status, const ucp_tag_recv_info_t* info,
                          void* request);
  static void on_posted(void* handle, ucs_status_t status, void* note);
  static void on_flushed(void* handle, ucs_status_t status, void* connection);

  uint64_t tag(int sender, uint8_t channel) const;
  Request& add(Pending& pending, Request::Kind kind, int peer, size_t bytes)
      LOCKSTEP_REQUIRES(mutex_);
  // What UCX's call returned: null, an error, or the request.
  void started(Request& request, ucs_status_ptr_t result) LOCKSTEP_REQUIRES(mutex_);
  void end(Request& request, ucs_status_t status) LOCKSTEP_REQUIRES(mutex_);
  bool progress() LOCKSTEP_REQUIRES(mutex_);
  // As leader: until an event, wake(), or `nap`.
  void sleep(Duration nap) LOCKSTEP_REQUIRES(mutex_);
  void lead(Pending& pending, Duration nap) LOCKSTEP_REQUIRES(mutex_);
  void cancel(Pending& pending) LOCKSTEP_REQUIRES(mutex_);
  // At once: what is under way on it ends badly.
  void close(Connection& connection) LOCKSTEP_REQUIRES(mutex_);
  // Hands what was sent to the network, for a moment at most.
  void flush() LOCKSTEP_REQUIRES(mutex_);
  // Moves data until `ready` or the deadline.
  void progress_until(Deadline deadline, const std::function<bool()>& ready)
      LOCKSTEP_REQUIRES(mutex_);

  const Events events_;
  const pid_t process_;  // a forked child has no part in it
  std::string address_;
  int events_fd_ = -1;
  uint64_t group_ = 0;
  int rank_ = 0;

  mutable Mutex mutex_;
  ucp_worker_h worker_ LOCKSTEP_GUARDED_BY(mutex_) = nullptr;
  // UCX could not be stopped from using memory that has a new owner: it does nothing any more.
  bool retired_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  std::vector<std::unique_ptr<Connection>> connections_ LOCKSTEP_GUARDED_BY(mutex_);  // by rank
  std::list<Note> notes_ LOCKSTEP_GUARDED_BY(mutex_);                                 // under way
  std::list<std::unique_ptr<std::deque<Request>>> orphans_ LOCKSTEP_GUARDED_BY(mutex_);
  std::list<Pending*> waiting_ LOCKSTEP_GUARDED_BY(mutex_);  // from await() to finish()
  const Pending* leader_ LOCKSTEP_GUARDED_BY(mutex_) = nullptr;
  uint64_t uses_ LOCKSTEP_GUARDED_BY(mutex_) = 0;       // how many exchanges have waited
  uint64_t uses_kept_ LOCKSTEP_GUARDED_BY(mutex_) = 0;  // at the last keep()
  Condition idle_;                                      // for keep()
};

}  // namespace lockstep::comm::ucx
