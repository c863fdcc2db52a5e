// The client of the rendezvous and a server that answers late, or never.
#include "launcher/rendezvous/client.h"

#include <atomic>
#include <memory>
#include <thread>

#include <gmock/gmock.h>
#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>

#include "launcher/agent/courier.h"
#include "launcher/proto/rendezvous.grpc.pb.h"
#include "launcher/rendezvous/wire.h"

namespace lockstep::launcher {
namespace {

using std::chrono::milliseconds;
using Reactor = grpc::ServerUnaryReactor;

// A call that ends when its caller gives up.
class Unanswered final : public Reactor {
  void OnCancel() override { Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }
};

JobState running() {
  JobState state;
  state.version = 2;
  state.epoch = 1;
  state.phase = Phase::running;
  return state;
}

// Lets a node join, answers no heartbeat, and reports only after the first `unanswered` ones.
class SlowServer final : public proto::Rendezvous::CallbackService {
 public:
  explicit SlowServer(int unanswered) : unanswered_(unanswered) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~SlowServer() override {
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
  }
  Endpoint endpoint() const { return {"127.0.0.1", port_}; }
  int reports() const { return reports_; }

  Reactor* Join(grpc::CallbackServerContext* context, const proto::JoinRequest*,
                proto::JobState* reply) override {
    return answer(context, reply, running());
  }
  Reactor* Heartbeat(grpc::CallbackServerContext*, const proto::HeartbeatRequest*,
                     proto::JobState*) override {
    return new Unanswered;
  }
  Reactor* Report(grpc::CallbackServerContext* context, const proto::ReportRequest*,
                  proto::JobState* reply) override {
    if (reports_++ < unanswered_) return new Unanswered;
    JobState state = running();
    state.version = 3;
    state.phase = Phase::finished;
    return answer(context, reply, state);
  }

 private:
  static Reactor* answer(grpc::CallbackServerContext* context, proto::JobState* reply,
                         const JobState& state) {
    Reactor* reactor = context->DefaultReactor();
    *reply = to_proto(state);
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  const int unanswered_;
  std::atomic<int> reports_ = 0;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

void join(RendezvousClient& client) {
  Node node;
  node.node_id = "a";
  client.join(node, 1, 0, std::chrono::seconds(60), [] { return true; });
}

// As after a stop, or on a machine that did not let the server run for longer than the limit. The
// job was once given up, done as it was.
TEST(RendezvousClient, ReportsAgainWhenAnAnswerDoesNotComeInTime) {
  SlowServer server(1);
  RendezvousClient client(server.endpoint(), "r", [] {},
                          {.report = milliseconds(300), .lost_after = std::chrono::seconds(60)});
  join(client);
  client.finish(1, false);
  EXPECT_EQ(client.lost(), "");
  EXPECT_EQ(client.state().phase, Phase::finished);
  EXPECT_GE(server.reports(), 2);
}

// gRPC's shutdown waits without a limit for threads of its own, also for one that the system had
// refused: an agent hung after its report.
TEST(RendezvousClient, LeavesGrpcInitializedAtItsEnd) {
  {
    SlowServer server(0);
    RendezvousClient client(server.endpoint(), "r", [] {},
                            {.report = milliseconds(300), .lost_after = std::chrono::seconds(60)});
    join(client);
  }
  EXPECT_NE(::grpc_is_initialized(), 0);
}

// An agent that is told to end at once must not wait for a rendezvous that hangs.
TEST(RendezvousClient, AbandonEndsACallThatHangsAndAllLaterOnes) {
  SlowServer server(1 << 30);
  RendezvousClient client(server.endpoint(), "r", [] {},
                          {.report = std::chrono::hours(1), .lost_after = std::chrono::hours(1)});
  join(client);
  std::atomic<int> done = 0;
  Courier courier([&] { ++done; });
  courier.send([&] { client.finish(1, false); });
  courier.send([&] { client.leave(); });
  while (server.reports() == 0) std::this_thread::yield();
  EXPECT_FALSE(courier.idle()) << "the caller itself does not wait";
  client.abandon();
  while (!courier.idle()) std::this_thread::yield();
  EXPECT_EQ(done, 2);
  EXPECT_EQ(server.reports(), 1);
  EXPECT_EQ(client.lost(), "");
}

TEST(RendezvousClient, GivesUpAServerThatNeverAnswers) {
  SlowServer server(1 << 30);
  RendezvousClient client(server.endpoint(), "r", [] {},
                          {.report = milliseconds(50), .lost_after = milliseconds(100)});
  join(client);
  client.finish(1, false);
  EXPECT_THAT(client.lost(), testing::HasSubstr("lost contact with " + server.endpoint().text()));
  EXPECT_GE(server.reports(), 2);
  const int before = server.reports();
  client.drained(1, true);
  EXPECT_EQ(server.reports(), before) << "nobody asks a server that is lost";
}

}  // namespace
}  // namespace lockstep::launcher
