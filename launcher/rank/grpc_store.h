// GrpcStore: the Store that a launcher's rendezvous serves.
#pragma once

#include <memory>
#include <string>

#include "comm/store.h"
#include "launcher/rank/served_store.h"
#include "launcher/rendezvous/endpoint.h"

namespace lockstep::launcher {

// Thread-safe. A value and its key may have 4 MiB less a little; more is a UsageError.
class GrpcStore final : public comm::Store {
 public:
  // Throws EnvironmentError if nobody answers within `limit`.
  GrpcStore(const Endpoint& server, std::string run_id, Duration limit);
  ~GrpcStore() override;

  // The store that rank 0 serves for its job (served_store.h), which tells its run id to those it
  // takes in. Throws UsageError where it refuses, EnvironmentError if nobody answers within
  // `limit`.
  static std::shared_ptr<GrpcStore> enter(const Endpoint& server, const Entrant& self,
                                          Duration limit);
  // After enter(): this rank needs the store no more. Never throws; a server that is gone needs no
  // farewell.
  void leave() noexcept;

  void set(const std::string& key, const std::string& value) override;
  std::string get(const std::string& key, Duration timeout) override;
  void wait(const std::vector<std::string>& keys, Duration timeout) override;
  int64_t add(const std::string& key, int64_t delta) override;
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override;

 private:
  struct Impl;
  explicit GrpcStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::launcher
