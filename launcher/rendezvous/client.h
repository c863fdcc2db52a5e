// RendezvousClient: an agent's side of the membership. It reports what happens here and shows the
// state of the job.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "launcher/rendezvous/endpoint.h"
#include "launcher/rendezvous/membership.h"
#include "launcher/trust/trust.h"

namespace lockstep::launcher {

// How long the client waits for its server.
struct ClientLimits {
  // For one answer. The answer to a heartbeat may also take the time for which the server holds it.
  Duration report = std::chrono::seconds(5);
  // How long the server may fail to answer, counted from the first failed call, before it counts as
  // lost. A single failure proves little: a time limit also passes while this process is stopped or
  // gets no CPU for seconds.
  Duration lost_after = std::chrono::seconds(2);
  // Called after each answer to join() or a heartbeat, on the thread of the call: no new epoch
  // begins without this node before boot_time() is later than this by a margin.
  std::function<void(Duration until)> renewed = {};
};

// Thread-safe. From join() on, its own thread keeps the node alive at the server.
class RendezvousClient {
 public:
  // Calls `on_news` on that thread after every change of state() or lost().
  RendezvousClient(const Endpoint& server, std::string run_id, std::function<void()> on_news,
                   const ClientLimits& limits = {}, const Trust& trust = {});
  ~RendezvousClient();
  RendezvousClient(const RendezvousClient&) = delete;
  RendezvousClient& operator=(const RendezvousClient&) = delete;

  // Tries until `limit` while nobody answers. Between attempts it calls `keep_trying`, which ends
  // them by returning false. Throws UsageError if refused or if the server is not to be trusted
  // (admission.h), EnvironmentError if nobody answered.
  void join(const Node& node, int nodes, int max_restarts, Duration limit,
            const std::function<bool()>& keep_trying);

  JobState state() const;
  // Empty while the server answers. Afterwards why it counts as lost.
  std::string lost() const;

  // Reports. Each waits for an answer and asks again while the server may still be there. If a
  // report is given up, lost() tells. leave() asks only once, because nothing depends on its
  // answer.
  void fail(uint64_t epoch, const Failure& failure);
  void finish(uint64_t epoch, bool saved);
  void drained(uint64_t epoch, bool progressed);
  void stop();
  void leave();

  // Ends every current and later call at once, for an agent that will not wait any longer. lost()
  // does not show this. join() throws EnvironmentError.
  void abandon();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::launcher
