// ProcessGroup: the ranks that work together, and the collectives among them.
//
// Every rank of a group must call the same collectives in the same order with matching arguments.
// Each call carries a fingerprint (group, sequence, op, dtype, count, root, reduce op); where they
// differ, the call fails on all ranks with a message that names both ranks and both calls, and no
// wrong data is released.
//
// Numbers and texts of the host (votes, flags, counts, losses, descriptions) go through host(), and
// tensors of the device go through the group itself. Where the group's device is a CPU, both are
// one group.
//
// Calls return at once; the Work says when they are done. Tensors must be contiguous, on the
// group's device, and stay untouched until then (the Work keeps their memory alive). At world size
// 1 every collective is the identity.
//
// Thread-safety: calls may come from any thread, but their order must be the same on all ranks.
// abort() may come at any time.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/reduce/reduce_tree.h"
#include "comm/work.h"
#include "core/tensor/tensor.h"

namespace lockstep::comm {

class Store;
class Backend;

enum class ReduceOp : uint8_t { sum, product, min, max, band, bor, bxor };
std::string_view name_of(ReduceOp op);

struct ReduceOptions {
  ReduceOp op = ReduceOp::sum;
  // The order of summation (see reduce_tree.h); null: pairing neighbours first. Must live until the
  // call returns.
  const ReduceTree* tree = nullptr;
  // What the call is for, where calls that are alike could be confused (FSDP: the unit). Ranks must
  // agree on it.
  uint64_t label = 0;
};

enum class Reduction : uint8_t {
  tree,  // one fixed order: the same bits on every backend and for every split of the same leaves
  fast,  // the backend's own order
};

// What holds where GroupOptions::timeout is not set.
inline constexpr Duration kDefaultTimeout = std::chrono::minutes(30);
inline constexpr Duration kDefaultStoppedTimeout = std::chrono::seconds(30);

struct GroupOptions {
  std::string name = "world";
  // Of each call, and of creation: how long ranks wait for one that does not come. A rank that died
  // or left is never waited for. Unset: kDefaultTimeout, which a rank that computes should not
  // need, but only kDefaultStoppedTimeout for one whose process is seen to be stopped. Set: exactly
  // this, whatever the rank does. A rank that holds up the others is named in the log within
  // seconds.
  std::optional<Duration> timeout = std::nullopt;
  Reduction reduction = Reduction::tree;
  // Where the tensors are. On a CUDA device, create() says how calls move them.
  Device device = kCpu;
};

class ProcessGroup {
 public:
  // Takes a backend (comm/engine/backend.h); users call create() below. `host`: the same ranks on
  // the CPU, for host(); null where the backend's device is a CPU.
  ProcessGroup(std::unique_ptr<Backend> backend, GroupOptions options,
               std::unique_ptr<ProcessGroup> host = nullptr);
  // Receives whose message has not come are withdrawn: their Work fails. Other calls are waited
  // for, as their ranks count on them.
  ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const;
  int size() const;
  const std::string& name() const;
  std::string backend_name() const;  // "shm"; on a CUDA device "nccl" or "staged shm"
  Device device() const;             // where the tensors of its calls are
  // Whether calls are queued on the device, as kernels are: Work::wait() then makes a queue wait,
  // and not the host.
  bool queues() const;

  // The same ranks on the CPU, for what the host has to say; this group itself, where its device is
  // a CPU. Lives as long as this group. No communication. Where it is a group of its own, its calls
  // have an order of their own, and the two end together: whatever aborts one, or fails in it,
  // aborts the other.
  ProcessGroup& host();

  // W = size(). In place: tensor [n] → reduced [n] on every rank.
  Work all_reduce(const Tensor& tensor, const ReduceOptions& options = {});
  // input [W·n] → output [n], rank r's slice of the sum.
  Work reduce_scatter(const Tensor& output, const Tensor& input, const ReduceOptions& options = {});
  // input [n] → output [W·n] in rank order. input may be rank r's slice of output. `label`, here
  // and below: as in ReduceOptions.
  Work all_gather(const Tensor& output, const Tensor& input, uint64_t label = 0);
  Work broadcast(const Tensor& tensor, int root, uint64_t label = 0);
  // The sum at root; elsewhere the tensor is unchanged.
  Work reduce(const Tensor& tensor, int root, const ReduceOptions& options = {});
  // output [W·n] at root only; elsewhere it may be undefined.
  Work gather(const Tensor& output, const Tensor& input, int root, uint64_t label = 0);
  // input [W·n] at root only.
  Work scatter(const Tensor& output, const Tensor& input, int root, uint64_t label = 0);
  // input [W·n] → output [W·n]: slice i of input goes to rank i.
  Work all_to_all(const Tensor& output, const Tensor& input, uint64_t label = 0);
  // Point to point; sends and receives between two ranks match in order.
  Work send(const Tensor& tensor, int destination, uint64_t label = 0);
  Work recv(const Tensor& tensor, int source, uint64_t label = 0);
  Work barrier();

  // The first of `count` labels (ReduceOptions::label) that this group hands out to nobody else on
  // this rank, 2^32 or more. Ranks that reserve in the same order get the same ones. For wrappers
  // whose calls look alike: two models of one shape. No communication. Thread-safe.
  uint64_t reserve_labels(uint64_t count);

  // Splits, and host() with it, into groups of equal `color` (negative: this rank joins none and
  // gets nullptr), ordered by `key`, then rank.
  std::unique_ptr<ProcessGroup> split(int color, int key);

  // Ends the group: every pending and later call fails at once with `reason`, on this rank and, as
  // far as they can be reached, on the others.
  void abort(const std::string& reason);

  // A tensor in memory in which this group's collectives cost least (shared memory in shm: no copy
  // in and out), for buffers that are reduced again and again. Contents are zero. Not a collective;
  // the tensor may outlive the group.
  Tensor allocate(const Shape& shape, DType dtype);

  // The last calls with times, newest last: one line each. For reports of hangs (flight recorder).
  std::vector<std::string> recent_calls() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// backend: "local" | "shm" | "ucx" | "mpi" | "nccl" (each with its own factory header in its
// folder); "auto" takes shm if all ranks are on one host, and ucx otherwise. Rank r of `size`;
// every rank calls it.
//
// On a CUDA device (GroupOptions::device) "nccl" needs a card for each rank. "auto" takes it if all
// ranks can use it, and says in the log if they cannot. With the others calls go through pinned
// memory (comm/staged), so ranks may share one device. host() is a second group: of that backend,
// or beside NCCL of the job's MPI, else what "auto" takes on a CPU.
//
// Throws UsageError for an unknown name or one that this build lacks, and says which exist, and for
// a device that is not there or that NCCL cannot use.
std::unique_ptr<ProcessGroup> create(const std::string& backend, std::shared_ptr<Store> store,
                                     int rank, int size, const GroupOptions& options = {});

// A group over a backend of this tree that has formed already and that create() does not know.
// Where its device is not a CPU, every rank calls it, and the host group forms over `store`, as
// `auto`; elsewhere the store may be null. The backend knows its device, whatever the options say.
std::unique_ptr<ProcessGroup> create(std::unique_ptr<Backend> backend, std::shared_ptr<Store> store,
                                     const GroupOptions& options = {});

}  // namespace lockstep::comm
