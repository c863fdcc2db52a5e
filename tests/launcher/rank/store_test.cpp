// One suite for every Store: what ranks may rely on, whoever serves it.
#include <atomic>
#include <thread>

#include <gmock/gmock.h>

#include "comm/local/hash_store.h"
#include "core/base/error.h"
#include "launcher/rank/grpc_store.h"
#include "launcher/rendezvous/client.h"
#include "launcher/rendezvous/server.h"
#include "tests/support/error_of.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using test::error_of;
using testing::HasSubstr;

constexpr auto kLong = seconds(60);

// Hands out the same store to several users.
class Local {
 public:
  std::shared_ptr<comm::Store> connect() { return store_; }

 private:
  std::shared_ptr<comm::Store> store_ = std::make_shared<comm::HashStore>();
};

class Served {
 public:
  std::shared_ptr<comm::Store> connect() {
    return std::make_shared<GrpcStore>(Endpoint{"127.0.0.1", server.port()}, "r", 0, kLong);
  }
  RendezvousServer server{Endpoint{"127.0.0.1", 0}, JobShape{.run_id = "r"}};
};

template <typename Host>
class StoreSuite : public testing::Test {
 protected:
  Host host;
};
using Hosts = testing::Types<Local, Served>;
TYPED_TEST_SUITE(StoreSuite, Hosts);

TYPED_TEST(StoreSuite, gives_back_any_bytes) {
  const auto a = this->host.connect();
  const auto b = this->host.connect();
  const std::string bytes("\0\xff\n=\x80", 5);
  a->set(bytes, bytes);
  EXPECT_EQ(b->get(bytes, kLong), bytes);
  a->set("k", "");
  EXPECT_EQ(b->get("k", kLong), "");
  a->set("k", "new");
  EXPECT_EQ(b->get("k", kLong), "new");
  const std::string large(1 << 20, 'x');
  a->set("large", large);
  EXPECT_EQ(b->get("large", kLong), large);
}

TYPED_TEST(StoreSuite, waits_until_a_key_appears) {
  const auto a = this->host.connect();
  const auto b = this->host.connect();
  std::string got;
  std::thread waiter([&] { got = b->get("k", kLong); });
  a->set("k", "v");
  waiter.join();
  EXPECT_EQ(got, "v");
}

TYPED_TEST(StoreSuite, waits_for_all_keys) {
  const auto a = this->host.connect();
  const auto b = this->host.connect();
  std::atomic<bool> done{false};
  std::thread waiter([&] {
    b->wait({"x", "y", "z"}, kLong);
    done = true;
  });
  a->set("z", "");
  a->set("x", "");
  EXPECT_FALSE(done);
  a->set("y", "");
  waiter.join();
  b->wait({}, milliseconds(0));
}

TYPED_TEST(StoreSuite, names_key_and_limit_when_a_wait_ends) {
  const auto store = this->host.connect();
  store->set("there", "");
  try {
    store->wait({"there", "missing"}, milliseconds(50));
    FAIL();
  } catch (const TimeoutError& e) {
    EXPECT_EQ(std::string(e.what()), "[store] key 'missing' did not appear within 0.05 s");
  }
  EXPECT_THROW(store->get("missing", milliseconds(0)), TimeoutError);
  EXPECT_EQ(store->get("there", milliseconds(0)), "");
}

TYPED_TEST(StoreSuite, adds_without_losing_any) {
  constexpr int kThreads = 4;
  constexpr int kTimes = 50;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([store = this->host.connect()] {
      for (int i = 0; i < kTimes; ++i) store->add("n", i % 2 == 0 ? 3 : -1);
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(this->host.connect()->add("n", 0), kThreads * kTimes);
  EXPECT_EQ(this->host.connect()->get("n", kLong), std::to_string(kThreads * kTimes));
}

TYPED_TEST(StoreSuite, refuses_to_add_to_text) {
  const auto store = this->host.connect();
  store->set("k", "text");
  EXPECT_THROW(store->add("k", 1), UsageError);
  EXPECT_EQ(store->get("k", kLong), "text");
}

TYPED_TEST(StoreSuite, one_of_many_wins_a_compare_and_set) {
  std::atomic<int> winners{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t, store = this->host.connect()] {
      if (store->compare_and_set("leader", "", std::to_string(t)) == std::to_string(t)) ++winners;
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(winners, 1);
  const auto store = this->host.connect();
  const std::string leader = store->get("leader", kLong);
  EXPECT_EQ(store->compare_and_set("leader", "nobody", "x"), leader);
  EXPECT_EQ(store->compare_and_set("leader", leader, "x"), "x");
}

TYPED_TEST(StoreSuite, removed_keys_are_as_if_never_set) {
  const auto a = this->host.connect();
  const auto b = this->host.connect();
  for (const char* key : {"one", "two", "kept"}) a->set(key, "7");
  b->remove({"one", "nobody set this", "two"});
  EXPECT_THROW(a->get("one", milliseconds(0)), TimeoutError);
  EXPECT_EQ(a->add("one", 5), 5);
  EXPECT_EQ(a->compare_and_set("two", "", "new"), "new");
  EXPECT_EQ(a->get("kept", kLong), "7");
  b->remove({});
}

TYPED_TEST(StoreSuite, prefixes_keep_users_apart) {
  const auto a = comm::with_prefix(this->host.connect(), "a");
  const auto b = comm::with_prefix(this->host.connect(), "b");
  a->set("k", "1");
  b->set("k", "2");
  EXPECT_EQ(a->get("k", kLong), "1");
  EXPECT_EQ(this->host.connect()->get("b/k", kLong), "2");
  a->remove({"k"});
  EXPECT_THROW(a->get("k", milliseconds(0)), TimeoutError);
  EXPECT_EQ(b->get("k", kLong), "2");
}

// A job of one node, whose first epoch fails and whose second one runs.
TEST(OldEpoch, cannot_use_the_store_any_more) {
  RendezvousServer server(Endpoint{"127.0.0.1", 0}, JobShape{.run_id = "r", .max_restarts = 1});
  const Endpoint at{"127.0.0.1", server.port()};
  RendezvousClient agent(at, "r", [] {});
  Node node;
  node.node_id = "a";
  agent.join(node, 1, 1, kLong, [] { return true; });
  GrpcStore old(at, "r", /*epoch=*/1, kLong);
  old.set("k", "old");
  Failure failure;
  failure.rank = 0;
  agent.fail(1, failure);
  agent.drained(1, /*progressed=*/true);
  ASSERT_EQ(agent.state().epoch, 2u);
  const auto refused = HasSubstr("is at epoch 2, and a rank of epoch 1 must not use its store");
  EXPECT_THAT(error_of([&] { old.set("k", "older"); }), refused);
  EXPECT_THAT(error_of([&] { old.get("k", kLong); }), refused);
  EXPECT_THAT(error_of([&] { old.add("n", 1); }), refused);
  EXPECT_THAT(error_of([&] { old.compare_and_set("k", "old", "older"); }), refused);
  EXPECT_THAT(error_of([&] { old.remove({"k"}); }), refused);
  EXPECT_EQ(GrpcStore(at, "r", /*epoch=*/2, kLong).get("k", kLong), "old");
}

TEST(GrpcStore, says_that_a_store_serves_another_run) {
  Served served;
  GrpcStore stranger({"127.0.0.1", served.server.port()}, "other", /*epoch=*/0, kLong);
  try {
    stranger.set("k", "v");
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("no run 'other' is served here"), std::string::npos)
        << e.what();
  }
}

TEST(GrpcStore, says_that_nobody_answers) {
  const int port = free_port("127.0.0.1");
  EXPECT_THROW(GrpcStore({"127.0.0.1", port}, "r", 0, milliseconds(100)), EnvironmentError);
}

TEST(GrpcStore, says_that_a_name_cannot_be_resolved) {
  std::string said;
  try {
    GrpcStore({"no-such-host.invalid", 29400}, "r", 0, milliseconds(100));
  } catch (const EnvironmentError& e) {
    said = e.what();
  }
  EXPECT_NE(said.find("nobody answers at no-such-host.invalid:29400"), std::string::npos) << said;
  EXPECT_NE(said.find("its name cannot be resolved: "), std::string::npos) << said;
}

TEST(GrpcStore, says_that_the_store_is_gone) {
  auto served = std::make_unique<Served>();
  const auto store = served->connect();
  store->set("k", "v");
  served.reset();
  EXPECT_THROW(store->set("k", "v"), EnvironmentError);
  EXPECT_THROW(store->get("k", kLong), EnvironmentError);
}

TEST(GrpcStore, a_server_that_ends_releases_those_who_wait) {
  auto served = std::make_unique<Served>();
  const auto store = served->connect();
  std::string said;
  std::thread waiter([&] {
    try {
      store->get("never", std::chrono::hours(1));
    } catch (const EnvironmentError& e) {
      said = e.what();
    }
  });
  served.reset();
  waiter.join();
  EXPECT_NE(said.find("cannot be reached any more"), std::string::npos) << said;
}

TEST(GrpcStore, refuses_values_that_do_not_fit_a_message) {
  Served served;
  EXPECT_THROW(served.connect()->set("k", std::string(5 << 20, 'x')), UsageError);
}

TEST(RendezvousServer, says_which_address_is_taken) {
  RendezvousServer first(Endpoint{"127.0.0.1", 0}, JobShape{.run_id = "r"});
  EXPECT_THROW(RendezvousServer(Endpoint{"127.0.0.1", first.port()}, JobShape{.run_id = "r"}),
               AddressInUse);
  EXPECT_THROW(RendezvousServer(Endpoint{"no-such-host.invalid", 0}, JobShape{.run_id = "r"}),
               EnvironmentError);
}

}  // namespace
}  // namespace lockstep::launcher
