#include "launcher/rank/grpc_store.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include "launcher/base/random_id.h"
#include "launcher/proto/rendezvous.grpc.pb.h"
#include "launcher/rendezvous/admission.h"
#include "launcher/rendezvous/channel.h"
#include "launcher/rendezvous/wire.h"

namespace lockstep::launcher {
namespace {

// The time limit of operations that need only an answer of the server.
constexpr auto kOperationLimit = std::chrono::seconds(30);
// How often to look why a connection is not made.
constexpr auto kKnockEvery = std::chrono::milliseconds(200);
constexpr auto kFarewellLimit = std::chrono::seconds(5);
// The server enforces the limit of a wait. The client's limit is longer by this much, and helps
// only if the server vanished silently.
constexpr auto kSlack = std::chrono::seconds(5);
constexpr size_t kMaxBytes = kMaxMessageBytes - 1024;

}  // namespace

struct GrpcStore::Impl {
  Endpoint server;
  std::string run_id;
  uint64_t epoch;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<proto::KeyValue::Stub> stub;
  proto::EnterRequest self;  // as sent by enter()

  Impl(const Endpoint& at, std::string run, uint64_t of_epoch, Duration limit, const Trust& trust)
      : server(at), run_id(std::move(run)), epoch(of_epoch), channel(open_channel(at, trust)) {
    check_may_trust(server, trust);
    Knocking knocking(server, trust);
    const Deadline deadline = Deadline::after(limit);
    while (!channel->WaitForConnected(
        grpc_deadline(std::min<Duration>(deadline.remaining(), kKnockEvery)))) {
      if (deadline.passed())
        throw EnvironmentError(str("[store] nobody answers at ", server.text(), " (waited ",
                                   seconds(limit), " s)", unresolved(server.host)));
      knocking.failed();
    }
    check_may_trust(server, trust);
    stub = proto::KeyValue::NewStub(channel);
  }

  [[noreturn]] void raise(const grpc::Status& status, const char* operation,
                          const std::string& key) const {
    if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT ||
        status.error_code() == grpc::StatusCode::FAILED_PRECONDITION)
      throw UsageError(status.error_message());
    if (status.error_code() == grpc::StatusCode::ABORTED)
      throw EnvironmentError(str("[store] ", operation, " '", key, "': ", status.error_message()));
    throw EnvironmentError(str("[store] ", operation, " '", key, "': the store at ", server.text(),
                               " cannot be reached any more: ", status.error_message()));
  }

  // The key of a request, for error messages.
  template <typename Request>
  static std::string named_in(const Request& request) {
    if constexpr (std::is_same_v<Request, proto::RemoveRequest>)
      return request.keys().empty() ? std::string() : request.keys(0);
    else
      return request.key();
  }

  // Runs an operation that is answered at once.
  template <typename Request, typename Reply>
  Reply call(grpc::Status (proto::KeyValue::Stub::*rpc)(grpc::ClientContext*, const Request&,
                                                        Reply*),
             Request& request, const char* operation) {
    request.set_run_id(run_id);
    request.set_epoch(epoch);
    grpc::ClientContext context;
    context.set_deadline(grpc_deadline(kOperationLimit));
    Reply reply;
    if (const grpc::Status status = (stub.get()->*rpc)(&context, request, &reply); !status.ok())
      raise(status, operation, named_in(request));
    return reply;
  }

  proto::GetReply get(const std::vector<std::string>& keys, Duration timeout) {
    proto::GetRequest request;
    request.set_run_id(run_id);
    request.set_epoch(epoch);
    for (const auto& key : keys) request.add_keys(key);
    request.set_timeout_ns(static_cast<uint64_t>(std::max<int64_t>(0, timeout.count())));
    grpc::ClientContext context;
    context.set_deadline(
        grpc_deadline(std::min<Duration>(timeout, std::chrono::hours(24 * 365)) + kSlack));
    proto::GetReply reply;
    const grpc::Status status = stub->Get(&context, request, &reply);
    if (status.ok()) return reply;
    const std::string& named = keys.empty() ? std::string() : keys.front();
    // The server answers a late wait with the missing key.
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED &&
        std::find(keys.begin(), keys.end(), status.error_message()) != keys.end())
      throw TimeoutError(str("[store] key '", status.error_message(), "' did not appear within ",
                             seconds(timeout), " s"));
    raise(status, "get", named);
  }

  static void check_size(const std::string& key, size_t bytes) {
    check(bytes <= kMaxBytes, "[store] key '", key.substr(0, 80), "' with its value has ", bytes,
          " bytes, at most ", kMaxBytes, " are possible; a store is for small things");
  }
};

GrpcStore::GrpcStore(const Endpoint& server, std::string run_id, uint64_t epoch, Duration limit,
                     const Trust& trust)
    : impl_(std::make_unique<Impl>(server, std::move(run_id), epoch, limit, trust)) {}
GrpcStore::GrpcStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcStore::~GrpcStore() = default;

std::shared_ptr<GrpcStore> GrpcStore::enter(const Endpoint& server, const Entrant& self,
                                            Duration limit, const Trust& trust) {
  auto impl = std::make_unique<Impl>(server, "", /*of_epoch=*/0, limit, trust);
  impl->self.set_job(self.job);
  impl->self.set_rank(self.rank);
  impl->self.set_size(self.size);
  impl->self.set_process(str("pid ", ::getpid(), " on ", host_name()));
  impl->self.set_id(random_id());
  grpc::ClientContext context;
  context.set_deadline(grpc_deadline(kOperationLimit));
  proto::EnterReply reply;
  if (const grpc::Status status = impl->stub->Enter(&context, impl->self, &reply); !status.ok())
    impl->raise(status, "enter", self.job);
  impl->run_id = reply.run_id();
  return std::shared_ptr<GrpcStore>(new GrpcStore(std::move(impl)));
}

void GrpcStore::leave() noexcept {
  grpc::ClientContext context;
  context.set_deadline(grpc_deadline(kFarewellLimit));
  proto::LeaveReply reply;
  static_cast<void>(impl_->stub->Leave(&context, impl_->self, &reply));
}

void GrpcStore::set(const std::string& key, const std::string& value) {
  Impl::check_size(key, key.size() + value.size());
  proto::SetRequest request;
  request.set_key(key);
  request.set_value(value);
  impl_->call(&proto::KeyValue::Stub::Set, request, "set");
}

std::string GrpcStore::get(const std::string& key, Duration timeout) {
  return std::move(*impl_->get({key}, timeout).mutable_values(0));
}

void GrpcStore::wait(const std::vector<std::string>& keys, Duration timeout) {
  impl_->get(keys, timeout);
}

int64_t GrpcStore::add(const std::string& key, int64_t delta) {
  proto::AddRequest request;
  request.set_key(key);
  request.set_delta(delta);
  return impl_->call(&proto::KeyValue::Stub::Add, request, "add").sum();
}

std::string GrpcStore::compare_and_set(const std::string& key, const std::string& expected,
                                       const std::string& desired) {
  Impl::check_size(key, key.size() + expected.size() + desired.size());
  proto::CompareAndSetRequest request;
  request.set_key(key);
  request.set_expected(expected);
  request.set_desired(desired);
  return impl_->call(&proto::KeyValue::Stub::CompareAndSet, request, "compare_and_set").value();
}

void GrpcStore::remove(const std::vector<std::string>& keys) {
  proto::RemoveRequest request;
  for (const auto& key : keys) request.add_keys(key);
  impl_->call(&proto::KeyValue::Stub::Remove, request, "remove");
}

}  // namespace lockstep::launcher
