#include "launcher/rank/served_store.h"

#include <exception>

#include <unistd.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "launcher/base/random_id.h"
#include "launcher/rank/grpc_store.h"
#include "launcher/rendezvous/server.h"

namespace lockstep::launcher {
namespace {

constexpr Duration kFarewell = std::chrono::seconds(10);
constexpr Duration kFarewellAfterError = std::chrono::seconds(1);
// How long to query the process that has the address.
constexpr Duration kProbe = std::chrono::seconds(5);

class ServedStore final : public comm::Store {
 public:
  // `server`: on rank 0 only.
  ServedStore(std::unique_ptr<RendezvousServer> server, std::shared_ptr<GrpcStore> store)
      : server_(std::move(server)),
        store_(std::move(store)),
        exceptions_(std::uncaught_exceptions()) {}
  ~ServedStore() override {
    store_->leave();
    if (server_)
      server_->wait_until_left(std::uncaught_exceptions() > exceptions_ ? kFarewellAfterError
                                                                        : kFarewell);
  }
  void set(const std::string& key, const std::string& value) override { store_->set(key, value); }
  std::string get(const std::string& key, Duration timeout) override {
    return store_->get(key, timeout);
  }
  void wait(const std::vector<std::string>& keys, Duration timeout) override {
    store_->wait(keys, timeout);
  }
  int64_t add(const std::string& key, int64_t delta) override { return store_->add(key, delta); }
  std::string compare_and_set(const std::string& key, const std::string& expected,
                              const std::string& desired) override {
    return store_->compare_and_set(key, expected, desired);
  }
  void remove(const std::vector<std::string>& keys) override { store_->remove(keys); }

 private:
  std::unique_ptr<RendezvousServer> server_;
  std::shared_ptr<GrpcStore> store_;
  int exceptions_;  // exceptions in flight at the start
};

// Where to listen so that all ranks reach `at`.
std::string listen_place(const Endpoint& at, const Trust& trust) {
  const bool from_outside = trust.token || trust.plaintext;
  const std::string place = from_outside ? listen_host(at.host) : at.host;
  if (place != at.host)
    log::warn("[store] on this machine, '", at.host,
              "' means loopback (see /etc/hosts), so rank 0 "
              "serves the store on all of its interfaces: set MASTER_ADDR to its address");
  return place;
}

// Says which job has the address of this job's store.
[[noreturn]] void refuse_taken(const AddressInUse& error, const Endpoint& at, const Entrant& self,
                               const Trust& trust) {
  try {
    GrpcStore::enter(at, self, kProbe, trust);
  } catch (const UsageError&) {
    throw;
  } catch (const EnvironmentError&) {  // not a store of ours
  }
  throw AddressInUse(
      str(error.what(), ", and not by a store of lockstep: give this job another MASTER_PORT"));
}

}  // namespace

std::shared_ptr<comm::Store> served_store(const Endpoint& at, const Entrant& self, Duration limit,
                                          const Trust& trust) {
  std::unique_ptr<RendezvousServer> server;
  try {
    if (self.rank == 0)
      server = std::make_unique<RendezvousServer>(Endpoint{listen_place(at, trust), at.port},
                                                  JobShape{.run_id = random_id()},
                                                  Lobby{.job = self.job, .size = self.size}, trust);
  } catch (const AddressInUse& e) {
    refuse_taken(e, at, self, trust);
  }
  auto store = GrpcStore::enter(at, self, limit, trust);
  return std::make_shared<ServedStore>(std::move(server), std::move(store));
}

}  // namespace lockstep::launcher
