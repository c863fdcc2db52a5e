#include "launcher/rendezvous/wire.h"

#include <algorithm>

#include "core/base/error.h"
#include "launcher/base/plain_text.h"

namespace lockstep::launcher {

namespace {

constexpr size_t kMostNameBytes = 1024;  // of an id, a host or a job
constexpr size_t kMostReasonBytes = 64 << 10;
constexpr int kMostLastLines = 100;
constexpr size_t kMostLineBytes = 4 << 10;
constexpr int kMostSlots = 1 << 16;

void check_name(const std::string& text, const char* what) {
  check(text.size() <= kMostNameBytes, "[rendezvous] ", what, " of ", text.size(),
        " bytes came, at most ", kMostNameBytes, " are possible");
  check(plain_text(text) == text, "[rendezvous] ", what, " with control characters came: '",
        plain_text(text), "'");
}

}  // namespace

void check_texts(const proto::EnterRequest& request) {
  check_name(request.job(), "a name of a job");
  check_name(request.process(), "a name of a process");
  check_name(request.id(), "an id of a process");
}

void check_texts(const proto::Node& node) {
  check_name(node.node_id(), "a node's id");
  check_name(node.host(), "a node's host name");
  check_name(node.master_addr(), "a node's MASTER_ADDR");
  check(node.slots() <= kMostSlots, "[rendezvous] a node of ", node.slots(),
        " ranks came, at most ", kMostSlots, " are possible");
}

proto::Node to_proto(const Node& node) {
  proto::Node out;
  out.set_node_id(node.node_id);
  out.set_host(node.host);
  out.set_pid(node.pid);
  out.set_slots(node.slots);
  out.set_min_slots(node.min_slots);
  out.set_node_rank(node.node_rank);
  out.set_master_addr(node.master_addr);
  out.set_master_port(node.master_port);
  out.set_first_rank(node.first_rank);
  return out;
}

Node from_proto(const proto::Node& node) {
  return {.node_id = node.node_id(),
          .host = node.host(),
          .pid = node.pid(),
          .slots = node.slots(),
          .min_slots = node.min_slots(),
          .node_rank = node.node_rank(),
          .master_addr = node.master_addr(),
          .master_port = node.master_port(),
          .first_rank = node.first_rank()};
}

proto::Failure to_proto(const Failure& failure) {
  proto::Failure out;
  out.set_rank(failure.rank);
  out.set_host(failure.host);
  out.set_pid(failure.pid);
  out.set_exit_code(failure.exit_code);
  out.set_signal(failure.signal);
  out.set_caused_by_peer(failure.caused_by_peer);
  out.set_stopped(failure.stopped);
  out.set_reason(failure.reason);
  for (const auto& line : failure.last_lines) out.add_last_lines(line);
  return out;
}

Failure from_proto(const proto::Failure& failure) {
  std::vector<std::string> lines;
  for (int i = 0; i < std::min(failure.last_lines_size(), kMostLastLines); ++i)
    lines.push_back(plain_text(failure.last_lines(i).substr(0, kMostLineBytes)));
  return {.rank = failure.rank(),
          .host = plain_text(failure.host().substr(0, kMostNameBytes)),
          .pid = failure.pid(),
          .exit_code = failure.exit_code(),
          .signal = failure.signal(),
          .caused_by_peer = failure.caused_by_peer(),
          .stopped = failure.stopped(),
          .reason = plain_text(failure.reason().substr(0, kMostReasonBytes)),
          .last_lines = std::move(lines)};
}

proto::JobState to_proto(const JobState& state) {
  proto::JobState out;
  out.set_version(state.version);
  out.set_epoch(state.epoch);
  out.set_phase(static_cast<proto::JobState::Phase>(state.phase));
  for (const auto& node : state.nodes) *out.add_nodes() = to_proto(node);
  if (state.failure) *out.mutable_failure() = to_proto(*state.failure);
  out.set_restarts(state.restarts);
  out.set_stopping(state.stopping);
  out.set_saved(state.saved);
  out.set_settled(state.settled);
  out.set_resizing(state.resizing);
  out.set_idle_restarts(state.idle_restarts);
  out.set_lease_ns(state.lease.count());
  return out;
}

JobState from_proto(const proto::JobState& state) {
  JobState out;
  out.version = state.version();
  out.epoch = state.epoch();
  out.phase = static_cast<Phase>(state.phase());
  for (const auto& node : state.nodes()) out.nodes.push_back(from_proto(node));
  if (state.has_failure()) out.failure = from_proto(state.failure());
  out.restarts = state.restarts();
  out.stopping = state.stopping();
  out.saved = state.saved();
  out.settled = state.settled();
  out.resizing = state.resizing();
  out.idle_restarts = state.idle_restarts();
  out.lease = Duration(state.lease_ns());
  return out;
}

}  // namespace lockstep::launcher
