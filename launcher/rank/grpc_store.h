// GrpcStore: the Store that a launcher's rendezvous serves.
#pragma once

#include <memory>
#include <string>

#include "comm/store.h"
#include "launcher/rank/served_store.h"
#include "launcher/rendezvous/endpoint.h"

namespace lockstep::launcher {

// Thread-safe. A key and its value may have a little less than 4 MiB together. More is a
// UsageError.
class GrpcStore final : public comm::Store {
 public:
  // `epoch`: the server refuses each call once a later one has begun; 0: it does not look. Throws
  // EnvironmentError if nobody answers within `limit`, and UsageError if the server is not to be
  // trusted or does not let this process in (admission.h).
  GrpcStore(const Endpoint& server, std::string run_id, uint64_t epoch, Duration limit,
            const Trust& trust = {});
  ~GrpcStore() override;

  // Enters the store that rank 0 serves for its job (served_store.h). The server tells its run id
  // to the ranks that it admits. Throws UsageError if it refuses this rank, and EnvironmentError if
  // nobody answers within `limit`.
  static std::shared_ptr<GrpcStore> enter(const Endpoint& server, const Entrant& self,
                                          Duration limit, const Trust& trust = {});
  // Call after enter(), once this rank no longer needs the store. Never throws: a server that is
  // gone needs no notice.
  void leave() noexcept;

  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, Duration timeout) override;
  void wait(const std::vector<std::string>& keys, Duration timeout) override;
  int64_t add(const std::string& key, int64_t delta) override;
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override;
  void remove(const std::vector<std::string>& keys) override;

 private:
  struct Impl;
  explicit GrpcStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::launcher
