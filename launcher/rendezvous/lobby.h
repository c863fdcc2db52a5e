// Decides who may use a store that rank 0 serves itself: each rank of one job, once. A state
// machine without threads and clocks.
#pragma once

#include <map>
#include <set>
#include <string>

namespace lockstep::launcher {

struct Lobby {
  std::string job;  // see Entrant::job
  int size = 1;
};

class LobbyBook {
 public:
  explicit LobbyBook(Lobby lobby) : lobby_(std::move(lobby)) {}

  // Admits a rank. `process` is for people. `id` differs between processes; the same process may
  // ask again. Throws UsageError that names both sides if the rank is of another job, or is here
  // already. If two processes claim the same rank while some rank is missing, two jobs meet here,
  // and nobody can tell their ranks apart. conflict() then says so.
  void enter(const std::string& job, int rank, int size, const std::string& process,
             const std::string& id);
  void leave(int rank, const std::string& id);

  // Why nobody may use the store. Empty if all is well.
  const std::string& conflict() const { return conflict_; }
  // Whether all admitted ranks have left.
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
