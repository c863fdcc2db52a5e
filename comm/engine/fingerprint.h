// Fingerprint: what a call is, in a form that ranks can compare. Where two ranks' fingerprints
// differ, their programs have gone apart, and the call must fail on both before any data is
// released.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/base/dtype.h"
#include "core/base/error.h"

namespace lockstep::comm {

enum class ReduceOp : uint8_t;

enum class Op : uint8_t {
  all_reduce,
  reduce_scatter,
  all_gather,
  broadcast,
  reduce,
  gather,
  scatter,
  all_to_all,
  send,
  recv,
  barrier,
  split,
};
std::string_view name_of(Op op);
constexpr bool reduces(Op op) {
  return op == Op::all_reduce || op == Op::reduce_scatter || op == Op::reduce;
}
constexpr bool point_to_point(Op op) { return op == Op::send || op == Op::recv; }

// Plain bytes without padding: backends put it into shared memory or send it as it is. A send and
// the recv that it meets have equal fingerprints (op send, root = the sender).
struct Fingerprint {
  uint64_t group = 0;  // hash of the group's name
  // Of collectives in the group, or of messages from one rank to another; from 1.
  uint64_t sequence = 0;
  uint64_t tree = 0;   // ReduceTree::digest(); 0 where nothing is reduced
  uint64_t label = 0;  // what the caller says the call is for; 0: nothing
  int64_t count = 0;
  int32_t root = -1;
  Op op = Op::barrier;
  DType dtype = DType::u8;
  ReduceOp reduce_op{};
  uint8_t reduction = 0;

  friend bool operator==(const Fingerprint&, const Fingerprint&) = default;
};
static_assert(sizeof(Fingerprint) == 48 && std::has_unique_object_representations_v<Fingerprint>);

uint64_t hash_name(std::string_view name);

// "all_reduce #12 (f32, 1000 elements, sum)".
std::string describe(const Fingerprint& call);

// The error where ranks called different things; names the lowest rank that differs from rank 0 of
// the list, and both calls. `calls` by rank. Every rank that sees the same calls gets the same
// message.
UsageError mismatch_error(std::span<const Fingerprint> calls);
// For a pair: a sender's and a receiver's view.
UsageError mismatch_error(int rank_a, const Fingerprint& a, int rank_b, const Fingerprint& b);
// Throws mismatch_error(calls) unless all are equal.
void check_equal(std::span<const Fingerprint> calls);

}  // namespace lockstep::comm
