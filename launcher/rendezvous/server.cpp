#include "launcher/rendezvous/server.h"

#include <thread>

#include <grpcpp/grpcpp.h>

#include "core/base/log.h"
#include "core/base/mutex.h"
#include "core/base/thread.h"
#include "launcher/base/failure.h"
#include "launcher/proto/rendezvous.grpc.pb.h"
#include "launcher/rendezvous/channel.h"
#include "launcher/rendezvous/endpoint.h"
#include "launcher/rendezvous/key_values.h"
#include "launcher/rendezvous/listener.h"
#include "launcher/rendezvous/wire.h"

namespace lockstep::launcher {
namespace {

using Reactor = grpc::ServerUnaryReactor;

// How often the ticker reads the clock. A gap of kPause or more means that this process did not
// run.
constexpr auto kTick = std::chrono::milliseconds(500);
constexpr auto kPause = std::chrono::milliseconds(2000);

grpc::Status closing() { return {grpc::StatusCode::UNAVAILABLE, "its server is closing"}; }
grpc::Status refused(const std::string& why) {
  return {grpc::StatusCode::FAILED_PRECONDITION, why};
}

grpc::Status invalid(const std::string& why) { return {grpc::StatusCode::INVALID_ARGUMENT, why}; }

// Both state machines, their lock, the waiting calls, and the thread that advances their time.
class Job {
 public:
  Job(JobShape shape, std::optional<Lobby> lobby)
      : run_id_(shape.run_id),
        membership_(std::move(shape)),
        lobby_(lobby ? std::optional<LobbyBook>(std::move(*lobby)) : std::nullopt),
        ticker_(start_thread("to watch over the job", [this] { run_ticker(); })) {}
  ~Job() { close(); }

  // Ends every waiting call. Later calls do not wait.
  void close() {
    {
      const MutexLock lock(mutex_);
      if (closed_) return;
      closed_ = true;
      keys_.tick(Duration::max());
      for (const auto& watcher : std::exchange(watchers_, {})) answer(watcher);
      changed_.notify_all();
    }
    ticker_.join();
  }

  bool wait_until_empty(Duration limit) {
    const MutexLock lock(mutex_);
    return changed_.wait_for(mutex_, limit,
                             [&]() LOCKSTEP_REQUIRES(mutex_) { return membership_.empty(); });
  }

  bool wait_until_left(Duration limit) {
    const MutexLock lock(mutex_);
    return changed_.wait_for(
        mutex_, limit, [&]() LOCKSTEP_REQUIRES(mutex_) { return !lobby_ || lobby_->empty(); });
  }

  void enter(Reactor* reactor, const proto::EnterRequest& request, proto::EnterReply* reply) {
    const MutexLock lock(mutex_);
    grpc::Status status;
    try {
      check_texts(request);
      check(lobby_.has_value(),
            "[store] the rendezvous of a run of `lockstep run` is at this "
            "address, but rank ",
            request.rank(), " of ", request.size(), " (", request.process(),
            ") expects the store of its own job: choose another MASTER_PORT");
      lobby_->enter(request.job(), request.rank(), request.size(), request.process(), request.id());
      reply->set_run_id(membership_.shape().run_id);
    } catch (const UsageError& e) {
      status = refused(e.what());  // the caller learns of the conflict
      publish();                   // waiting calls learn of it, too
    }
    reactor->Finish(status);
  }

  void leave(Reactor* reactor, const proto::EnterRequest& request) {
    const MutexLock lock(mutex_);
    if (lobby_) lobby_->leave(request.rank(), request.id());
    changed_.notify_all();
    reactor->Finish(grpc::Status::OK);
  }

  // The time, without periods in which this process was stopped (Ctrl-Z, a debugger). It could not
  // hear the nodes then, so their leases do not run on.
  Duration now() LOCKSTEP_REQUIRES(mutex_) {
    const Duration at = Clock::now().time_since_epoch();
    if (at - looked_at_ > kPause) stood_still_ += at - looked_at_;
    looked_at_ = at;
    return at - stood_still_;
  }

  // Applies event(membership, now). Answers with the new state, or with the reason for a refusal.
  template <typename Event>
  void apply(Reactor* reactor, proto::JobState* reply, const Event& event) {
    grpc::Status status;
    {
      const MutexLock lock(mutex_);
      try {
        const Duration at = now();
        membership_.tick(at);
        event(membership_, at);
        publish();
        *reply = to_proto(membership_.state());
      } catch (const UsageError& e) {
        publish();
        status = refused(e.what());
      } catch (const TryAgain& e) {
        publish();
        status = {grpc::StatusCode::ABORTED, e.what()};
      }
    }
    reactor->Finish(status);
  }

  // Answers when the state is newer than the one that the node has seen, or at the deadline.
  void watch(Reactor* reactor, proto::JobState* reply, const proto::HeartbeatRequest& request) {
    const auto& sender = request.sender();
    grpc::Status status;
    {
      const MutexLock lock(mutex_);
      try {
        check_run(sender.run_id());
        membership_.tick(now());
        membership_.heartbeat(sender.node_id(), sender.epoch(), now());
        publish();
        if (membership_.state().version <= request.seen_version() && !closed_) {
          const Duration wait = std::min<Duration>(std::chrono::milliseconds(request.wait_ms()),
                                                   membership_.shape().lease / 4);
          watchers_.push_back({reactor, reply, now() + wait, request.seen_version()});
          changed_.notify_all();
          return;
        }
        *reply = to_proto(membership_.state());
      } catch (const UsageError& e) {
        status = refused(e.what());
      }
    }
    reactor->Finish(status);
  }

  // The caller of a waiting heartbeat has gone.
  void cancelled(Reactor* reactor, const std::string& node_id) {
    const MutexLock lock(mutex_);
    const auto found = std::find_if(watchers_.begin(), watchers_.end(),
                                    [&](const Watcher& w) { return w.reactor == reactor; });
    if (found == watchers_.end()) return;
    const Watcher watcher = *found;
    watchers_.erase(found);
    membership_.disconnected(node_id, now());
    publish();
    answer(watcher);
  }

  // Returns the number of the wait for forget_get(), or 0.
  uint64_t get(Reactor* reactor, const proto::GetRequest& request, proto::GetReply* reply) {
    const MutexLock lock(mutex_);
    if (!serves(reactor, request)) return 0;
    const Duration asked = std::min<Duration>(
        Duration(static_cast<int64_t>(std::min<uint64_t>(request.timeout_ns(), INT64_MAX))),
        std::chrono::hours(24 * 365));
    const Duration limit = has_failed() || !conflict().empty() ? Duration::zero() : asked;
    KeyValues::Waiter waiter;
    waiter.found = [reactor, reply](std::vector<std::string> values) {
      for (auto& value : values) reply->add_values(std::move(value));
      reactor->Finish(grpc::Status::OK);
    };
    // keys_ calls it, so with the lock held.
    waiter.late = [this, reactor](const std::string& missing) LOCKSTEP_REQUIRES(mutex_) {
      reactor->Finish(closed_               ? closing()
                      : !conflict().empty() ? refused(conflict())
                      : has_failed()        ? failed()
                                     : grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, missing));
    };
    waiter.refused = [reactor](const std::string& why) { reactor->Finish(invalid(why)); };
    uint64_t number = 0;
    if (closed_) {
      reactor->Finish(closing());
      return number;
    }
    try {
      number = keys_.get({request.keys().begin(), request.keys().end()}, now() + limit,
                         std::move(waiter));
    } catch (const UsageError& e) {
      reactor->Finish(invalid(e.what()));
    }
    changed_.notify_all();
    return number;
  }

  // The caller of a waiting Get has gone.
  void forget_get(Reactor* reactor, uint64_t number) {
    const MutexLock lock(mutex_);
    if (keys_.cancel(number)) reactor->Finish(grpc::Status::CANCELLED);
  }

  template <typename Request, typename Event>
  void with_keys(Reactor* reactor, const Request& request, const Event& event) {
    const MutexLock lock(mutex_);
    if (!serves(reactor, request)) return;
    grpc::Status status;
    try {
      event(keys_);
    } catch (const UsageError& e) {
      status = invalid(e.what());
    }
    reactor->Finish(status);
  }

  void set_value(const std::string& key, const std::string& value) {
    const MutexLock lock(mutex_);
    keys_.set(key, value);
  }

  void check_run(const std::string& run_id) const {
    check(run_id == run_id_, "[rendezvous] no run '", run_id.substr(0, 100),
          "' is served here: use another endpoint, or the same --rdzv-id on all hosts");
  }

 private:
  struct Watcher {
    Reactor* reactor;
    proto::JobState* reply;
    Duration deadline;
    uint64_t seen;
  };

  void answer(const Watcher& watcher) const LOCKSTEP_REQUIRES(mutex_) {
    *watcher.reply = to_proto(membership_.state());
    watcher.reactor->Finish(grpc::Status::OK);
  }

  template <typename Request>
  bool serves(Reactor* reactor, const Request& request) const LOCKSTEP_REQUIRES(mutex_) {
    try {
      check_run(request.run_id());
      membership_.check_epoch_of_rank(request.epoch());
      check(conflict().empty(), conflict());
      return true;
    } catch (const UsageError& e) {
      reactor->Finish(refused(e.what()));
      return false;
    }
  }

  const std::string& conflict() const LOCKSTEP_REQUIRES(mutex_) {
    static const std::string none;
    return lobby_ ? lobby_->conflict() : none;
  }
  bool has_failed() const LOCKSTEP_REQUIRES(mutex_) {
    // Before the number of ranks changes, they may still need the store to save.
    return membership_.state().phase == Phase::failed ||
           (membership_.state().phase == Phase::draining && !membership_.state().resizing);
  }
  // The ranks that could set the missing key are being stopped.
  grpc::Status failed() const LOCKSTEP_REQUIRES(mutex_) {
    const auto& failure = membership_.state().failure;
    return {grpc::StatusCode::ABORTED,
            "the job has failed" + (failure ? ": " + headline(*failure) : "")};
  }

  // Answers the waiting calls whose answer is known now.
  void publish() LOCKSTEP_REQUIRES(mutex_) {
    changed_.notify_all();
    if (has_failed() || !conflict().empty()) keys_.tick(Duration::max());
    const auto done = [&](const Watcher& w) LOCKSTEP_REQUIRES(mutex_) {
      return membership_.state().version > w.seen;
    };
    for (const auto& watcher : watchers_)
      if (done(watcher)) answer(watcher);
    std::erase_if(watchers_, done);
  }

  void run_ticker() {
    const MutexLock lock(mutex_);
    while (!closed_) {
      const Duration at = now();
      membership_.tick(at);
      keys_.tick(at);
      publish();
      std::vector<Watcher> late;
      std::erase_if(watchers_, [&](const Watcher& w) {
        return w.deadline <= at && (late.push_back(w), true);
      });
      for (const auto& watcher : late) answer(watcher);
      Duration next = at + std::chrono::seconds(60);
      for (const auto& deadline : {membership_.next_deadline(), keys_.next_deadline()})
        if (deadline) next = std::min(next, *deadline);
      for (const auto& watcher : watchers_) next = std::min(next, watcher.deadline);
      changed_.wait_for(mutex_, std::min<Duration>(next - at, kTick));
    }
  }

  const std::string run_id_;
  Mutex mutex_;
  Condition changed_;
  Membership membership_ LOCKSTEP_GUARDED_BY(mutex_);
  std::optional<LobbyBook> lobby_ LOCKSTEP_GUARDED_BY(mutex_);
  KeyValues keys_ LOCKSTEP_GUARDED_BY(mutex_);
  std::vector<Watcher> watchers_ LOCKSTEP_GUARDED_BY(mutex_);
  bool closed_ LOCKSTEP_GUARDED_BY(mutex_) = false;
  // The last time read and the length of all pauses, for now().
  Duration looked_at_ LOCKSTEP_GUARDED_BY(mutex_) = Clock::now().time_since_epoch();
  Duration stood_still_ LOCKSTEP_GUARDED_BY(mutex_){};
  std::thread ticker_;  // last: it uses the others
};

// A heartbeat call that notices when its caller disappears.
class HeartbeatReactor final : public Reactor {
 public:
  HeartbeatReactor(Job& job, const proto::HeartbeatRequest* request, proto::JobState* reply)
      : job_(job), node_id_(request->sender().node_id()) {
    job_.watch(this, reply, *request);
  }
  void OnCancel() override { job_.cancelled(this, node_id_); }
  void OnDone() override { delete this; }

 private:
  Job& job_;
  std::string node_id_;
};

// A Get that notices when its caller disappears: nobody needs what it waits for.
class GetReactor final : public Reactor {
 public:
  GetReactor(Job& job, const proto::GetRequest* request, proto::GetReply* reply)
      : job_(job), number_(job.get(this, *request, reply)) {}
  void OnCancel() override {
    if (number_ != 0) job_.forget_get(this, number_);
  }
  void OnDone() override { delete this; }

 private:
  Job& job_;
  const uint64_t number_;
};

class RendezvousService final : public proto::Rendezvous::CallbackService {
 public:
  explicit RendezvousService(Job& job) : job_(job) {}

  Reactor* Join(grpc::CallbackServerContext* context, const proto::JoinRequest* request,
                proto::JobState* reply) override {
    Reactor* reactor = context->DefaultReactor();
    job_.apply(reactor, reply, [&](Membership& membership, Duration now) {
      check(request->protocol() == kProtocol, "[rendezvous] this agent speaks protocol ", kProtocol,
            ", the one that asks to join ", request->protocol(),
            "; use the same version of lockstep on all nodes");
      job_.check_run(request->run_id());
      check_texts(request->node());
      membership.join(request->run_id(), from_proto(request->node()), request->nodes(),
                      request->max_restarts(), now);
    });
    return reactor;
  }

  Reactor* Heartbeat(grpc::CallbackServerContext*, const proto::HeartbeatRequest* request,
                     proto::JobState* reply) override {
    return new HeartbeatReactor(job_, request, reply);
  }

  Reactor* Report(grpc::CallbackServerContext* context, const proto::ReportRequest* request,
                  proto::JobState* reply) override {
    Reactor* reactor = context->DefaultReactor();
    job_.apply(reactor, reply, [&](Membership& membership, Duration now) {
      const auto& sender = request->sender();
      job_.check_run(sender.run_id());
      switch (request->what_case()) {
        case proto::ReportRequest::kFailed:
          return membership.fail(sender.node_id(), sender.epoch(), from_proto(request->failed()),
                                 now);
        case proto::ReportRequest::kFinished:
          return membership.finish(sender.node_id(), sender.epoch(), request->finished(), now);
        case proto::ReportRequest::kDrained:
          return membership.drained(sender.node_id(), sender.epoch(), request->drained(), now);
        case proto::ReportRequest::kStop: return membership.stop(sender.node_id(), now);
        case proto::ReportRequest::kLeave: return membership.leave(sender.node_id(), now);
        case proto::ReportRequest::WHAT_NOT_SET: throw UsageError("[rendezvous] an empty report");
      }
    });
    return reactor;
  }

 private:
  Job& job_;
};

class KeyValueService final : public proto::KeyValue::CallbackService {
 public:
  explicit KeyValueService(Job& job) : job_(job) {}

  Reactor* Enter(grpc::CallbackServerContext* context, const proto::EnterRequest* request,
                 proto::EnterReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    job_.enter(reactor, *request, reply);
    return reactor;
  }
  Reactor* Leave(grpc::CallbackServerContext* context, const proto::EnterRequest* request,
                 proto::LeaveReply*) override {
    Reactor* reactor = context->DefaultReactor();
    job_.leave(reactor, *request);
    return reactor;
  }
  Reactor* Set(grpc::CallbackServerContext* context, const proto::SetRequest* request,
               proto::SetReply*) override {
    Reactor* reactor = context->DefaultReactor();
    job_.with_keys(reactor, *request,
                   [&](KeyValues& keys) { keys.set(request->key(), request->value()); });
    return reactor;
  }
  Reactor* Get(grpc::CallbackServerContext*, const proto::GetRequest* request,
               proto::GetReply* reply) override {
    return new GetReactor(job_, request, reply);
  }
  Reactor* Add(grpc::CallbackServerContext* context, const proto::AddRequest* request,
               proto::AddReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    job_.with_keys(reactor, *request, [&](KeyValues& keys) {
      reply->set_sum(keys.add(request->key(), request->delta()));
    });
    return reactor;
  }
  Reactor* CompareAndSet(grpc::CallbackServerContext* context,
                         const proto::CompareAndSetRequest* request,
                         proto::CompareAndSetReply* reply) override {
    Reactor* reactor = context->DefaultReactor();
    job_.with_keys(reactor, *request, [&](KeyValues& keys) {
      reply->set_value(
          keys.compare_and_set(request->key(), request->expected(), request->desired()));
    });
    return reactor;
  }
  Reactor* Remove(grpc::CallbackServerContext* context, const proto::RemoveRequest* request,
                  proto::RemoveReply*) override {
    Reactor* reactor = context->DefaultReactor();
    job_.with_keys(reactor, *request, [&](KeyValues& keys) {
      keys.remove({request->keys().begin(), request->keys().end()});
    });
    return reactor;
  }

 private:
  Job& job_;
};

Gate gate_of(const Endpoint& at, const Trust& trust) {
  return !at.is_unix() && (trust.token || trust.plaintext) ? Gate::proof : Gate::same_user;
}

// Notes who calls: a connection that calls has come through the handshake. There is nothing to
// intercept afterwards.
class CallWatch final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallWatch(Listener& listener) : listener_(listener) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* call) override {
    if (listener_.newcomers().count() > 0)
      listener_.newcomers().prove(call->server_context()->peer());
    return nullptr;
  }

 private:
  Listener& listener_;
};

void watch_calls(grpc::ServerBuilder& builder, Listener& listener) {
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> all;
  all.push_back(std::make_unique<CallWatch>(listener));
  builder.experimental().SetInterceptorCreators(std::move(all));
}

}  // namespace

struct RendezvousServer::Impl {
  Impl(const Endpoint& at, JobShape shape, std::optional<Lobby> lobby, const Trust& trust)
      : listener(at, gate_of(at, trust)),
        job(std::move(shape), std::move(lobby)),
        rendezvous(job),
        key_values(job) {}

  Listener listener;
  Job job;
  RendezvousService rendezvous;
  KeyValueService key_values;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor;
  std::unique_ptr<grpc::Server> server;
};

RendezvousServer::RendezvousServer(const Endpoint& at, JobShape shape, std::optional<Lobby> lobby,
                                   const Trust& trust) {
  prepare_grpc();
  impl_ = std::make_unique<Impl>(at, std::move(shape), std::move(lobby), trust);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 100);
  // Drops a client that connects and sends nothing.
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.RegisterService(&impl_->rendezvous);
  builder.RegisterService(&impl_->key_values);
  impl_->acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      server_credentials(at, trust));
  watch_calls(builder, impl_->listener);
  impl_->server = builder.BuildAndStart();
  if (!impl_->server) throw EnvironmentError("[rendezvous] gRPC could not start its server");
  impl_->listener.start([this](int listen_fd, int fd) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = listen_fd;
    connection.fd = fd;
    impl_->acceptor->HandleNewConnection(&connection);
  });
}

RendezvousServer::~RendezvousServer() {
  impl_->job.close();
  impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  impl_->server->Wait();
}

int RendezvousServer::port() const { return impl_->listener.port(); }

void RendezvousServer::set_value(const std::string& key, const std::string& value) {
  impl_->job.set_value(key, value);
}

bool RendezvousServer::wait_until_empty(Duration limit) {
  return impl_->job.wait_until_empty(limit);
}

bool RendezvousServer::wait_until_left(Duration limit) { return impl_->job.wait_until_left(limit); }

}  // namespace lockstep::launcher
