// RendezvousClient: an agent's side of the membership. It reports what happens here and shows how
// the job fares.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "launcher/rendezvous/endpoint.h"
#include "launcher/rendezvous/membership.h"

namespace lockstep::launcher {

// How long the client waits for its server.
struct ClientLimits {
  // For one answer; a heartbeat's may also take the time for which the server holds it.
  Duration report = std::chrono::seconds(5);
  // How long the server may fail to answer, from the first failed call on, before it is given up.
  // One failure alone says little: a time limit passes as well while this process is stopped, or
  // gets no turn for seconds.
  Duration lost_after = std::chrono::seconds(2);
};

// Thread-safe. From join() on, a thread of its own keeps the node alive at the server.
class RendezvousClient {
 public:
  // `on_news` is called on that thread after every change of state() or of lost().
  RendezvousClient(const Endpoint& server, std::string run_id, std::function<void()> on_news,
                   const ClientLimits& limits = {});
  ~RendezvousClient();
  RendezvousClient(const RendezvousClient&) = delete;
  RendezvousClient& operator=(const RendezvousClient&) = delete;

  // Tries again until `limit` while nobody answers. Throws UsageError when refused,
  // EnvironmentError when nobody answered; `keep_trying` is asked in between and may end the
  // attempts.
  void join(const Node& node, int nodes, int max_restarts, Duration limit,
            const std::function<bool()>& keep_trying);

  JobState state() const;
  // Empty while the server answers; afterwards what became of it.
  std::string lost() const;

  // Reports. They wait for an answer, and ask again while the server may still be there; one that
  // is given up shows in lost(). leave() asks once: nothing depends on it any more.
  void fail(uint64_t epoch, const Failure& failure);
  void finish(uint64_t epoch, bool saved);
  void drained(uint64_t epoch);
  void stop();
  void leave();

  // Ends every call under way, and every later one, at once: for an agent that will not wait any
  // longer. Nothing of that shows in lost(); join() throws EnvironmentError.
  void abandon();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::launcher
