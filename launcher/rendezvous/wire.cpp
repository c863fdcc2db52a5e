#include "launcher/rendezvous/wire.h"

namespace lockstep::launcher {

proto::Node to_proto(const Node& node) {
  proto::Node out;
  out.set_node_id(node.node_id);
  out.set_host(node.host);
  out.set_pid(node.pid);
  out.set_slots(node.slots);
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
  return {.rank = failure.rank(),
          .host = failure.host(),
          .pid = failure.pid(),
          .exit_code = failure.exit_code(),
          .signal = failure.signal(),
          .caused_by_peer = failure.caused_by_peer(),
          .stopped = failure.stopped(),
          .reason = failure.reason(),
          .last_lines = {failure.last_lines().begin(), failure.last_lines().end()}};
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
  return out;
}

}  // namespace lockstep::launcher
