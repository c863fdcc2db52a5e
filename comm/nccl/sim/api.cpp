// The simulated NCCL behind the NcclApi.
#include "comm/nccl/api.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "comm/nccl/sim/communicator.h"
#include "comm/reduce/reduce_kernels.h"
#include "core/base/error.h"

namespace lockstep::comm::nccl {
namespace sim {
namespace {

constexpr int kVersion = 22809;
constexpr int kUnhandledCudaError = 1, kSystemError = 2, kInvalidArgument = 4, kInvalidUsage = 5;

using Handle = std::shared_ptr<SimCommunicator>;  // what a CommHandle points to
SimCommunicator& of(CommHandle comm) { return **static_cast<Handle*>(comm); }

thread_local std::string last_words;

// Runs call() and turns what it throws into a result.
template <class Call>
int guarded(int error, const Call& call) {
  try {
    call();
    return kSuccess;
  } catch (const std::exception& e) {
    last_words = e.what();
    return error;
  }
}

int version(int* version) {
  *version = kVersion;
  return kSuccess;
}

int unique_id(UniqueId* id) {
  return guarded(kSystemError, [&] { *id = make_segment(); });
}

int init(CommHandle* comm, int size, const UniqueId& id, int rank, const char*) {
  const int result = guarded(
      kSystemError, [&] { *comm = new Handle(std::make_shared<SimCommunicator>(id, rank, size)); });
  return result == kSuccess ? kInProgress : result;
}

int state(CommHandle comm, int* state) {
  *state = of(comm).state();
  return kSuccess;
}
int finalize(CommHandle comm) {
  of(comm).finalize();
  return kInProgress;
}
int destroy(CommHandle comm) {
  delete static_cast<Handle*>(comm);
  return kSuccess;
}
int abort(CommHandle comm) {
  of(comm).abort();
  return destroy(comm);
}

// ---- groups: only messages need to be collected ----
struct Group {
  int depth = 0;
  int error = kSuccess;
  struct Messages {
    CommHandle comm;
    StreamHandle stream;
    Operation operation;
  };
  std::vector<Messages> messages;
};
thread_local Group group;

int enqueue(CommHandle comm, StreamHandle stream, Operation operation) {
  const int result =
      guarded(kUnhandledCudaError, [&] { of(comm).enqueue(std::move(operation), stream); });
  return result == kSuccess ? kInProgress : result;
}

int group_start() {
  ++group.depth;
  return kSuccess;
}
int group_end() {
  if (--group.depth > 0) return kSuccess;
  int result = std::exchange(group.error, kSuccess);
  for (auto& [comm, stream, operation] : std::exchange(group.messages, {}))
    if (result == kSuccess || result == kInProgress)
      result = enqueue(comm, stream, std::move(operation));
  return result;
}

Operation& messages_of(CommHandle comm, StreamHandle stream) {
  for (auto& messages : group.messages)
    if (messages.comm == comm && messages.stream == stream) return messages.operation;
  Operation operation;
  operation.name = "NCCL messages";
  return group.messages.emplace_back(comm, stream, std::move(operation)).operation;
}

template <class Messages, class Peer>
bool has_peer(const Messages& messages, Peer peer) {
  return std::any_of(messages.begin(), messages.end(), peer);
}

int wrong_peer(const char* what, int peer) {
  last_words = str(what, " rank ", peer,
                   ": the simulation takes one message a peer and direction in a group");
  return group.error = kInvalidUsage;
}

int send(const void* in, size_t bytes, int peer, CommHandle comm, StreamHandle stream) {
  group_start();
  auto& sends = messages_of(comm, stream).sends;
  if (peer < 0 || peer >= of(comm).size() || peer == of(comm).rank() ||
      has_peer(sends, [&](const auto& s) { return s.to == peer; }))
    wrong_peer("send to", peer);
  else
    sends.push_back({peer, in, bytes});
  return group_end();
}
int recv(void* out, size_t bytes, int peer, CommHandle comm, StreamHandle stream) {
  group_start();
  auto& receives = messages_of(comm, stream).receives;
  if (peer < 0 || peer >= of(comm).size() || peer == of(comm).rank() ||
      has_peer(receives, [&](const auto& r) { return r.from == peer; }))
    wrong_peer("receive from", peer);
  else
    receives.push_back({peer, out, bytes});
  return group_end();
}

// ---- collectives ----
uint64_t signature_of(std::initializer_list<uint64_t> facts) {
  uint64_t hash = 0x9e3779b97f4a7c15u;
  for (const uint64_t fact : facts) {
    hash = (hash ^ fact) * 0xff51afd7ed558ccdu;
    hash ^= hash >> 32;
  }
  return hash;
}
enum Kind : uint64_t { kAllReduce = 1, kReduceScatter, kReduce, kAllGather, kBroadcast };

template <class F>
void for_peers(const SimCommunicator& comm, const F& f) {
  for (int r = 0; r < comm.size(); ++r)
    if (r != comm.rank()) f(r);
}
const char* at(const void* data, size_t bytes) { return static_cast<const char*>(data) + bytes; }
char* at(void* data, size_t bytes) { return static_cast<char*>(data) + bytes; }
void move(void* to, const void* from, size_t bytes) {
  if (to != from) std::copy_n(static_cast<const char*>(from), bytes, static_cast<char*>(to));
}

int all_gather(const void* in, void* out, size_t bytes, CommHandle handle, StreamHandle stream) {
  const SimCommunicator& comm = of(handle);
  Operation o;
  o.name = "NCCL all_gather";
  o.signature = signature_of({kAllGather, bytes});
  for_peers(comm, [&](int r) {
    o.sends.push_back({r, in, bytes});
    o.receives.push_back({r, at(out, static_cast<size_t>(r) * bytes), bytes});
  });
  void* const mine = at(out, static_cast<size_t>(comm.rank()) * bytes);
  o.finish = [=](const auto&) { move(mine, in, bytes); };
  return enqueue(handle, stream, std::move(o));
}

int broadcast(const void* in, void* out, size_t bytes, int root, CommHandle handle,
              StreamHandle stream) {
  const SimCommunicator& comm = of(handle);
  Operation o;
  o.name = "NCCL broadcast";
  o.signature = signature_of({kBroadcast, bytes, static_cast<uint64_t>(root)});
  if (comm.rank() == root) {
    for_peers(comm, [&](int r) { o.sends.push_back({r, in, bytes}); });
    o.finish = [=](const auto&) { move(out, in, bytes); };
  } else {
    o.receives.push_back({root, out, bytes});
  }
  return enqueue(handle, stream, std::move(o));
}

// A sum in another order than the tree's: a ring's, which begins behind rank `first`. `sources` by
// rank.
void chain_sum(DType dtype, ReduceOp op, int first, const std::vector<const void*>& sources,
               size_t begin, void* out, size_t count) {
  const auto size = static_cast<int>(sources.size());
  std::vector<const void*> turned;
  std::vector<ReduceTree::Step> steps;
  for (int i = 0; i < size; ++i) {
    turned.push_back(at(sources[static_cast<size_t>((first + 1 + i) % size)], begin));
    if (i > 0) steps.push_back({0, i});
  }
  reduce_in_order(dtype, op, steps, turned, std::span<void* const>(&out, 1),
                  static_cast<int64_t>(count));
}

std::vector<const void*> by_rank(std::vector<const void*> received, int rank, const void* mine) {
  received.insert(received.begin() + rank, mine);
  return received;
}

int sum(const char* name, Operation o, DType dtype, CommHandle comm, StreamHandle stream) {
  if (dtype == DType::boolean) return kInvalidArgument;
  o.name = name;
  return enqueue(comm, stream, std::move(o));
}

int all_reduce(const void* in, void* out, size_t count, DType dtype, ReduceOp op, CommHandle handle,
               StreamHandle stream) {
  const SimCommunicator& comm = of(handle);
  const auto element = static_cast<size_t>(size_of(dtype));
  const int rank = comm.rank(), size = comm.size();
  Operation o;
  o.signature =
      signature_of({kAllReduce, count, static_cast<uint64_t>(dtype), static_cast<uint64_t>(op)});
  for_peers(comm, [&](int r) {
    o.sends.push_back({r, in, count * element});
    o.receives.push_back({r, nullptr, count * element});
  });
  o.finish = [=](const std::vector<const void*>& received) {
    const auto sources = by_rank(received, rank, in);
    for (int chunk = 0; chunk < size; ++chunk) {
      const Range range = part_of(static_cast<int64_t>(count), size, chunk);
      const size_t begin = static_cast<size_t>(range.begin) * element;
      chain_sum(dtype, op, chunk, sources, begin, at(out, begin),
                static_cast<size_t>(range.size()));
    }
  };
  return sum("NCCL all_reduce", std::move(o), dtype, handle, stream);
}

int reduce_scatter(const void* in, void* out, size_t count, DType dtype, ReduceOp op,
                   CommHandle handle, StreamHandle stream) {
  const SimCommunicator& comm = of(handle);
  const size_t bytes = count * static_cast<size_t>(size_of(dtype));
  const int rank = comm.rank();
  Operation o;
  o.signature = signature_of(
      {kReduceScatter, count, static_cast<uint64_t>(dtype), static_cast<uint64_t>(op)});
  for_peers(comm, [&](int r) {
    o.sends.push_back({r, at(in, static_cast<size_t>(r) * bytes), bytes});
    o.receives.push_back({r, nullptr, bytes});
  });
  const void* const mine = at(in, static_cast<size_t>(rank) * bytes);
  o.finish = [=](const std::vector<const void*>& received) {
    chain_sum(dtype, op, rank, by_rank(received, rank, mine), 0, out, count);
  };
  return sum("NCCL reduce_scatter", std::move(o), dtype, handle, stream);
}

int reduce(const void* in, void* out, size_t count, DType dtype, ReduceOp op, int root,
           CommHandle handle, StreamHandle stream) {
  const SimCommunicator& comm = of(handle);
  const size_t bytes = count * static_cast<size_t>(size_of(dtype));
  Operation o;
  o.signature = signature_of({kReduce, count, static_cast<uint64_t>(dtype),
                              static_cast<uint64_t>(op), static_cast<uint64_t>(root)});
  if (comm.rank() != root) {
    o.sends.push_back({root, in, bytes});
  } else {
    for_peers(comm, [&](int r) { o.receives.push_back({r, nullptr, bytes}); });
    o.finish = [=](const std::vector<const void*>& received) {
      chain_sum(dtype, op, root, by_rank(received, root, in), 0, out, count);
    };
  }
  return sum("NCCL reduce", std::move(o), dtype, handle, stream);
}

const char* error_text(int result) {
  switch (result) {
    case kSuccess: return "no error";
    case kUnhandledCudaError: return "unhandled cuda error";
    case kSystemError: return "unhandled system error";
    case kInvalidArgument: return "invalid argument";
    case kInvalidUsage: return "invalid usage";
    case kRemoteError: return "remote process exited or there was a network error";
    case kInProgress: return "NCCL operation in progress";
    default: return "internal error";
  }
}
const char* last_error(CommHandle) { return last_words.c_str(); }

}  // namespace
}  // namespace sim

const NcclApi& api() {
  static const NcclApi table{.version = sim::version,
                             .unique_id = sim::unique_id,
                             .init = sim::init,
                             .state = sim::state,
                             .finalize = sim::finalize,
                             .destroy = sim::destroy,
                             .abort = sim::abort,
                             .group_start = sim::group_start,
                             .group_end = sim::group_end,
                             .all_reduce = sim::all_reduce,
                             .reduce_scatter = sim::reduce_scatter,
                             .reduce = sim::reduce,
                             .all_gather = sim::all_gather,
                             .broadcast = sim::broadcast,
                             .send = sim::send,
                             .recv = sim::recv,
                             .error_text = sim::error_text,
                             .last_error = sim::last_error};
  return table;
}

const char* api_kind() { return " (simulated)"; }

}  // namespace lockstep::comm::nccl
