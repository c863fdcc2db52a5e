#include "comm/engine/fingerprint.h"

#include <ostream>

#include "comm/process_group.h"

namespace lockstep::comm {

std::string_view name_of(Op op) {
  switch (op) {
    case Op::all_reduce: return "all_reduce";
    case Op::reduce_scatter: return "reduce_scatter";
    case Op::all_gather: return "all_gather";
    case Op::broadcast: return "broadcast";
    case Op::reduce: return "reduce";
    case Op::gather: return "gather";
    case Op::scatter: return "scatter";
    case Op::all_to_all: return "all_to_all";
    case Op::send: return "send";
    case Op::recv: return "recv";
    case Op::barrier: return "barrier";
    case Op::split: return "split";
  }
  return "?";
}

uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string describe(const Fingerprint& call) {
  std::ostringstream out;
  out << name_of(call.op) << " #" << call.sequence;
  if (call.op == Op::barrier || call.op == Op::split) return out.str();
  out << " (" << call.dtype << ", " << call.count << (call.count == 1 ? " element" : " elements");
  if (reduces(call.op))
    out << ", " << name_of(call.reduce_op) << ", order " << std::hex << (call.tree & 0xffff)
        << std::dec;
  if (call.label != 0) out << ", label " << call.label;
  if (point_to_point(call.op))
    out << ", from rank " << call.root;
  else if (call.root >= 0)
    out << ", root " << call.root;
  out << ")";
  if (reduces(call.op) && call.reduction != 0) out << " in fast order";
  return out.str();
}

UsageError mismatch_error(int rank_a, const Fingerprint& a, int rank_b, const Fingerprint& b) {
  if (a.group != b.group)
    return UsageError(str(
        "ranks ", rank_a, " and ", rank_b,
        " are in groups of different names; every rank must create its groups in the same order"));
  return UsageError(
      str("ranks called different things: rank ", rank_a, " called ", describe(a), ", but rank ",
          rank_b, " called ", describe(b),
          "; every rank must make the same calls in the same order. No data was exchanged"));
}

UsageError mismatch_error(std::span<const Fingerprint> calls) {
  size_t other = 1;
  while (other + 1 < calls.size() && calls[other] == calls[0]) ++other;
  return mismatch_error(0, calls[0], static_cast<int>(other), calls[other]);
}

void check_equal(std::span<const Fingerprint> calls) {
  for (const Fingerprint& call : calls)
    if (call != calls[0]) throw mismatch_error(calls);
}

}  // namespace lockstep::comm
