// What a store holds, answers and remembers has limits, and each is refused by name.
#include <thread>

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "launcher/proto/rendezvous.grpc.pb.h"
#include "launcher/rank/grpc_store.h"
#include "launcher/rendezvous/channel.h"
#include "launcher/rendezvous/key_values.h"
#include "launcher/rendezvous/server.h"
#include "launcher/rendezvous/wire.h"
#include "tests/support/error_of.h"

namespace lockstep::launcher {
namespace {

using std::chrono::seconds;
using test::error_of;
using testing::AllOf;
using testing::HasSubstr;

constexpr auto kLong = seconds(60);

KeyValues::Waiter waiter(std::string& refused) {
  return {.found = [](std::vector<std::string>) {},
          .late = [](const std::string&) {},
          .refused = [&refused](const std::string& why) { refused = why; }};
}

TEST(StoreLimits, bytes_keys_and_the_length_of_a_key) {
  KeyValues keys({.bytes = 100, .keys = 3, .waits = 9, .key_bytes = 10, .answer_bytes = 50});
  keys.set("a", std::string(60, 'x'));
  EXPECT_THAT(error_of([&] { keys.set("b", std::string(60, 'x')); }),
              AllOf(HasSubstr("key 'b' with its value of 60 bytes"), HasSubstr("limit")));
  keys.set("a", std::string(90, 'y'));  // in place of the other value
  keys.remove({"a"});
  keys.set("b", std::string(90, 'x'));
  keys.set("b", "");
  keys.set("c", "");
  keys.set("d", "");
  EXPECT_THAT(error_of([&] { keys.set("e", ""); }), HasSubstr("limit of 3 keys"));
  EXPECT_THAT(error_of([&] { keys.set("longer than ten", ""); }),
              HasSubstr("15 bytes, at most 10"));
}

TEST(StoreLimits, an_answer) {
  KeyValues keys({.bytes = 1000, .keys = 9, .waits = 9, .key_bytes = 10, .answer_bytes = 50});
  std::string refused;
  keys.set("a", std::string(20, 'x'));
  EXPECT_THAT(error_of([&] {
                keys.get({"a", "a", "a"}, seconds(1), waiter(refused));
              }),
              AllOf(HasSubstr("the 3 keys from 'a' on"), HasSubstr("50"), HasSubstr("fewer keys")));
  // Likewise if the last key comes later.
  keys.get({"a", "a", "b"}, seconds(1), waiter(refused));
  keys.set("b", std::string(20, 'x'));
  EXPECT_THAT(refused, HasSubstr("the 3 keys from 'a' on"));
}

TEST(StoreLimits, waits_and_what_they_hold) {
  KeyValues keys({.bytes = 400, .keys = 9, .waits = 2, .key_bytes = 10, .answer_bytes = 300});
  std::string refused;
  const uint64_t first = keys.get({"never"}, seconds(1), waiter(refused));
  keys.get({"never"}, seconds(1), waiter(refused));
  EXPECT_THAT(error_of([&] { keys.get({"never"}, seconds(1), waiter(refused)); }),
              HasSubstr("limit of 2 waits"));
  EXPECT_TRUE(keys.cancel(first));
  EXPECT_FALSE(keys.cancel(first));
  keys.set("a", std::string(120, 'x'));
  // A wait keeps the values that it has seen.
  EXPECT_THAT(error_of([&] {
                keys.get({"a", "a", "never"}, seconds(1), waiter(refused));
              }),
              HasSubstr("a wait for 'never' would pass the store's limit"));
  keys.tick(seconds(2));
  EXPECT_FALSE(keys.next_deadline().has_value());
  keys.remove({"a"});
  keys.set("b", std::string(390, 'x'));  // nothing is held for the waits that have ended
}

class ServedLimits : public testing::Test {
 protected:
  RendezvousServer server{Endpoint{"127.0.0.1", 0}, JobShape{.run_id = "r"}};
  const Endpoint at{"127.0.0.1", server.port()};
};

TEST_F(ServedLimits, a_small_request_gets_no_huge_answer) {
  GrpcStore mine(at, "r", 0, kLong);
  mine.set("k", std::string(size_t{3} << 20, 'x'));
  EXPECT_THAT(error_of([&] { mine.wait(std::vector<std::string>(150, "k"), kLong); }),
              HasSubstr("the 150 keys from 'k' on"));
  EXPECT_EQ(mine.get("k", kLong).size(), size_t{3} << 20);
}

TEST_F(ServedLimits, values_do_not_fill_the_memory) {
  GrpcStore mine(at, "r", 0, kLong);
  const std::string value(size_t{4} * 1000 * 1000, 'x');
  int taken = 0;
  const std::string error = error_of([&] {
    for (; taken < 150; ++taken) mine.set("k" + std::to_string(taken), value);
  });
  EXPECT_THAT(error, HasSubstr("limit of 256 MiB"));
  EXPECT_EQ(taken, 67);
  mine.remove({"k0"});
  mine.set("small", "1");
}

TEST_F(ServedLimits, ids_of_megabytes_are_refused) {
  const auto stub = proto::Rendezvous::NewStub(open_channel(at, {}));
  const auto join = [&](const std::string& id, const std::string& host) {
    proto::JoinRequest request;
    request.set_protocol(kProtocol);
    request.set_run_id("r");
    request.mutable_node()->set_node_id(id);
    request.mutable_node()->set_host(host);
    request.mutable_node()->set_slots(1);
    request.set_nodes(1);
    grpc::ClientContext context;
    proto::JobState reply;
    return stub->Join(&context, request, &reply);
  };
  const grpc::Status huge = join(std::string(3000000, 'x'), "h");
  EXPECT_EQ(huge.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(huge.error_message(), HasSubstr("a node's id of 3000000 bytes"));
  EXPECT_THAT(join("a", "h\x1b[2J").error_message(),
              AllOf(HasSubstr("a node's host name with control characters"), HasSubstr("h?[2J")));
  EXPECT_TRUE(join("a", "h").ok());
}

// The number of waits is limited to one here by the place that they hold: each of them has seen a
// value of nearly 4 MB, and 67 would pass the store's limit.
TEST_F(ServedLimits, a_wait_whose_caller_has_gone_holds_nothing) {
  GrpcStore mine(at, "r", 0, kLong);
  mine.set("big", std::string(3900000, 'x'));
  const auto channel = open_channel(at, {});
  const auto stub = proto::KeyValue::NewStub(channel);
  for (int i = 0; i < 150; ++i) {
    proto::GetRequest request;
    request.set_run_id("r");
    request.add_keys("big");
    request.add_keys("never");
    request.set_timeout_ns(1000000000ull * 3600);
    grpc::ClientContext context;
    context.set_deadline(grpc_deadline(std::chrono::milliseconds(20)));
    proto::GetReply reply;
    ASSERT_EQ(stub->Get(&context, request, &reply).error_code(),
              grpc::StatusCode::DEADLINE_EXCEEDED)
        << "wait " << i;
  }
}

}  // namespace
}  // namespace lockstep::launcher
