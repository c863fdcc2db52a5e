// RendezvousClient: an agent's side of the membership. It reports what happens here and shows how the job fares.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "launcher/rendezvous/endpoint.h"
#include "launcher/rendezvous/membership.h"

namespace lockstep::launcher {

// Thread-safe. From join() on, a thread of its own keeps the node alive at the server.
class RendezvousClient {
 public:
  // `on_news` is called on that thread after every change of state() or of lost().
  RendezvousClient(const Endpoint& server, std::string run_id, std::function<void()> on_news);
  ~RendezvousClient();
  RendezvousClient(const RendezvousClient&) = delete;
  RendezvousClient& operator=(const RendezvousClient&) = delete;

  // Tries again until `limit` while nobody answers. Throws UsageError when refused, EnvironmentError when nobody answered;
  // `keep_trying` is asked in between and may end the attempts.
  void join(const Node& node, int nodes, int max_restarts, Duration limit, const std::function<bool()>& keep_trying);

  JobState state() const;
  // Empty while the server answers; afterwards what became of it.
  std::string lost() const;

  // Reports. They wait for an answer, a few seconds at most; a server that does not answer shows in lost().
  void fail(uint64_t epoch, const Failure& failure);
  void finish(uint64_t epoch, bool saved);
  void drained(uint64_t epoch);
  void stop();
  void leave();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::launcher
