// Who may use a store that rank 0 serves itself: each rank of one job, once. A state machine
// without threads and clocks.
#pragma once

#include <map>
#include <set>
#include <string>

namespace lockstep::launcher {

struct Lobby {
  std::string job;  // as Entrant::job
  int size = 1;
};

class LobbyBook {
 public:
  explicit LobbyBook(Lobby lobby) : lobby_(std::move(lobby)) {}

  // Takes in a rank. `process` is for people, `id` differs between processes; the same process may
  // ask again. Throws UsageError that names both sides where the rank is of another job, or has
  // come already. As long as some rank is missing, two processes that are the same rank mean that
  // two jobs meet here, and nobody can tell which ranks are whose: conflict() then says so.
  void enter(const std::string& job, int rank, int size, const std::string& process,
             const std::string& id);
  void leave(int rank, const std::string& id);

  // Why nobody may use the store; empty while everything is in order.
  const std::string& conflict() const { return conflict_; }
  // Whether all that came have left.
  bool empty() const { return left_.size() == ranks_.size(); }

 private:
  struct Process {
    std::string text, id;
  };
  Lobby lobby_;
  std::map<int, Process> ranks_;
  std::set<int> left_;
  std::string conflict_;
};

}  // namespace lockstep::launcher
