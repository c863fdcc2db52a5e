#include "launcher/rendezvous/client.h"

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/base/thread.h"
#include "launcher/base/agent_page.h"
#include "launcher/proto/rendezvous.grpc.pb.h"
#include "launcher/rendezvous/admission.h"
#include "launcher/rendezvous/channel.h"
#include "launcher/rendezvous/wire.h"

namespace lockstep::launcher {
namespace {

// For how long the server may hold a heartbeat: at most this, and at most a fifth of the lease.
constexpr auto kHeartbeatWait = std::chrono::milliseconds(1000);
constexpr auto kRetry = std::chrono::milliseconds(100);

// Measures how long a server has failed to answer.
class Patience {
 public:
  explicit Patience(Duration lost_after) : lost_after_(lost_after) {}
  void answered() { failing_ = false; }
  // Call this after a failed call. Returns whether the server's time is up.
  bool ends() {
    if (std::exchange(failing_, true)) return lost_at_.passed();
    lost_at_ = Deadline::after(lost_after_);
    return false;
  }

 private:
  const Duration lost_after_;
  bool failing_ = false;
  Deadline lost_at_{Clock::time_point::max()};  // while failing
};

}  // namespace

struct RendezvousClient::Impl {
  Endpoint server;
  std::string run_id;
  std::function<void()> on_news;
  ClientLimits limits;
  Trust trust;
  std::string node_id;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<proto::Rendezvous::Stub> stub;

  mutable Mutex mutex;
  Condition wake;
  JobState state LOCKSTEP_GUARDED_BY(mutex);
  std::string lost LOCKSTEP_GUARDED_BY(mutex);
  bool stopping LOCKSTEP_GUARDED_BY(mutex) = false;
  bool abandoned LOCKSTEP_GUARDED_BY(mutex) = false;  // implies stopping
  // The current heartbeat, which is cancelled at the end, and all other current calls.
  grpc::ClientContext* beating LOCKSTEP_GUARDED_BY(mutex) = nullptr;
  std::vector<grpc::ClientContext*> others LOCKSTEP_GUARDED_BY(mutex);
  std::thread thread;

  // The context of a call. abandon() may cancel it while the object lives.
  class Call {
   public:
    Call(Impl& impl, Duration limit) : impl_(impl) {
      context.set_deadline(grpc_deadline(limit));
      const MutexLock lock(impl_.mutex);
      if (impl_.abandoned) context.TryCancel();
      impl_.others.push_back(&context);
    }
    ~Call() {
      const MutexLock lock(impl_.mutex);
      std::erase(impl_.others, &context);
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    grpc::ClientContext context;

   private:
    Impl& impl_;
  };

  bool is_abandoned() {
    const MutexLock lock(mutex);
    return abandoned;
  }

  // `sent`: the boot_time() before the request left. The server has seen it no earlier.
  void renew(Duration sent, const proto::JobState& answer) const {
    if (limits.renewed) limits.renewed(sent + ranks_may_run(Duration(answer.lease_ns())));
  }

  void learn(const proto::JobState& news) {
    JobState fresh = from_proto(news);
    {
      const MutexLock lock(mutex);
      if (fresh.version <= state.version) return;  // answers may overtake one another
      state = std::move(fresh);
    }
    on_news();
  }

  void give_up(std::string why) {
    {
      const MutexLock lock(mutex);
      if (!lost.empty() || stopping) return;
      lost = std::move(why);
    }
    on_news();
  }

  proto::Sender sender(uint64_t epoch) const {
    proto::Sender out;
    out.set_run_id(run_id);
    out.set_node_id(node_id);
    out.set_epoch(epoch);
    return out;
  }

  // A report is sent again if its answer was lost. The membership accepts repeated reports.
  void report(proto::ReportRequest request, uint64_t epoch) {
    *request.mutable_sender() = sender(epoch);
    Patience patience(limits.lost_after);
    while (true) {
      {
        // A server that does not answer heartbeats would let each report run into its limit, too.
        const MutexLock lock(mutex);
        if (!lost.empty() || abandoned) return;
      }
      Call call(*this, limits.report);
      proto::JobState reply;
      const grpc::Status status = stub->Report(&call.context, request, &reply);
      if (status.ok()) return learn(reply);
      if (is_abandoned()) return;
      if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION || patience.ends())
        return give_up(explain(status));
      const MutexLock lock(mutex);
      if (wake.wait_for(mutex, kRetry, [&]() LOCKSTEP_REQUIRES(mutex) { return stopping; })) return;
    }
  }

  std::string explain(const grpc::Status& status) const {
    if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION) return status.error_message();
    return str("[rendezvous] lost contact with ", server.text(), ": ", status.error_message());
  }

  void keep_alive() {
    Patience patience(limits.lost_after);
    while (true) {
      grpc::ClientContext context;
      context.set_deadline(grpc_deadline(kHeartbeatWait + limits.report));
      proto::HeartbeatRequest request;
      {
        const MutexLock lock(mutex);
        if (stopping) return;
        *request.mutable_sender() = sender(state.epoch);
        request.set_seen_version(state.version);
        request.set_wait_ms(static_cast<uint32_t>(
            std::min<int64_t>(kHeartbeatWait.count(), state.lease.count() / 5'000'000)));
        beating = &context;
      }
      proto::JobState reply;
      const Duration sent = boot_time();
      const grpc::Status status = stub->Heartbeat(&context, request, &reply);
      {
        const MutexLock lock(mutex);
        beating = nullptr;
        if (stopping) return;
      }
      if (status.ok()) {
        patience.answered();
        renew(sent, reply);
        learn(reply);
      } else if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION || patience.ends()) {
        return give_up(explain(status));
      } else {
        const MutexLock lock(mutex);
        wake.wait_for(mutex, kRetry, [&]() LOCKSTEP_REQUIRES(mutex) { return stopping; });
      }
    }
  }
};

RendezvousClient::RendezvousClient(const Endpoint& server, std::string run_id,
                                   std::function<void()> on_news, const ClientLimits& limits,
                                   const Trust& trust)
    : impl_(std::make_unique<Impl>()) {
  impl_->server = server;
  impl_->run_id = std::move(run_id);
  impl_->on_news = std::move(on_news);
  impl_->limits = limits;
  impl_->trust = trust;
  impl_->channel = open_channel(server, trust);
  impl_->stub = proto::Rendezvous::NewStub(impl_->channel);
  impl_->state.version = 0;  // no state seen yet
}

RendezvousClient::~RendezvousClient() {
  {
    const MutexLock lock(impl_->mutex);
    impl_->stopping = true;
    if (impl_->beating) impl_->beating->TryCancel();
    impl_->wake.notify_all();
  }
  if (impl_->thread.joinable()) impl_->thread.join();
}

void RendezvousClient::join(const Node& node, int nodes, int max_restarts, Duration limit,
                            const std::function<bool()>& keep_trying) {
  impl_->node_id = node.node_id;
  proto::JoinRequest request;
  request.set_protocol(kProtocol);
  request.set_run_id(impl_->run_id);
  *request.mutable_node() = to_proto(node);
  request.set_nodes(nodes);
  request.set_max_restarts(max_restarts);
  const Deadline deadline = Deadline::after(limit);
  std::string told;
  check_may_trust(impl_->server, impl_->trust);
  Knocking knocking(impl_->server, impl_->trust);
  while (true) {
    // Connects first, in short waits: join must not be sent twice, because the second would be
    // refused.
    while (!impl_->channel->WaitForConnected(
        grpc_deadline(std::min<Duration>(deadline.remaining(), kRetry)))) {
      if (deadline.passed() || impl_->is_abandoned() || !keep_trying())
        throw EnvironmentError(str(
            "[rendezvous] nobody answers at ", impl_->server.text(), " (waited ", seconds(limit),
            " s): is the agent of node 0 running there, and is the port open to this host?",
            unresolved(impl_->server.host)));
      knocking.failed();
    }
    check_may_trust(impl_->server, impl_->trust);
    Impl::Call call(*impl_, impl_->limits.report);
    proto::JobState reply;
    const Duration sent = boot_time();
    const grpc::Status status = impl_->stub->Join(&call.context, request, &reply);
    if (status.ok()) {
      impl_->renew(sent, reply);
      impl_->learn(reply);
      impl_->thread =
          start_thread("to keep in touch with the rendezvous", [this] { impl_->keep_alive(); });
      return;
    }
    if (status.error_code() == grpc::StatusCode::FAILED_PRECONDITION)
      throw UsageError(status.error_message());
    const bool told_to_come_again = status.error_code() == grpc::StatusCode::ABORTED;
    if (told_to_come_again && !deadline.passed() && !impl_->is_abandoned() && keep_trying()) {
      if (told != status.error_message()) {
        told = status.error_message();
        log::info(told, "; asking again, for ", seconds(limit), " s at most");
      }
      std::this_thread::sleep_for(kRetry);
      continue;
    }
    throw EnvironmentError(str("[rendezvous] ", impl_->server.text(),
                               " does not let us join: ", status.error_message(),
                               told_to_come_again ? "" : " (is something else listening there?)"));
  }
}

JobState RendezvousClient::state() const {
  const MutexLock lock(impl_->mutex);
  return impl_->state;
}

std::string RendezvousClient::lost() const {
  const MutexLock lock(impl_->mutex);
  return impl_->lost;
}

void RendezvousClient::fail(uint64_t epoch, const Failure& failure) {
  proto::ReportRequest request;
  *request.mutable_failed() = to_proto(failure);
  impl_->report(std::move(request), epoch);
}

void RendezvousClient::finish(uint64_t epoch, bool saved) {
  proto::ReportRequest request;
  request.set_finished(saved);
  impl_->report(std::move(request), epoch);
}

void RendezvousClient::drained(uint64_t epoch, bool progressed) {
  proto::ReportRequest request;
  request.set_drained(progressed);
  impl_->report(std::move(request), epoch);
}

void RendezvousClient::stop() {
  proto::ReportRequest request;
  request.set_stop(true);
  impl_->report(std::move(request), state().epoch);
}

void RendezvousClient::abandon() {
  const MutexLock lock(impl_->mutex);
  impl_->stopping = impl_->abandoned = true;
  if (impl_->beating) impl_->beating->TryCancel();
  for (grpc::ClientContext* call : impl_->others) call->TryCancel();
  impl_->wake.notify_all();
}

void RendezvousClient::leave() {
  {
    const MutexLock lock(impl_->mutex);
    // The heartbeat would be refused after this.
    impl_->stopping = true;
    if (impl_->beating) impl_->beating->TryCancel();
    impl_->wake.notify_all();
  }
  if (impl_->thread.joinable()) impl_->thread.join();
  proto::ReportRequest request;
  request.set_leave(true);
  impl_->report(std::move(request), state().epoch);
}

}  // namespace lockstep::launcher
