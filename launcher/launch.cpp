#include "launcher/launch.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <unistd.h>

#include "core/base/log.h"
#include "launcher/agent/agent.h"
#include "launcher/agent/farewell.h"
#include "launcher/base/needs.h"
#include "launcher/base/random_id.h"
#include "launcher/process/memory_file.h"
#include "launcher/rank/rank_env.h"
#include "launcher/rendezvous/server.h"
#include "launcher/trust/trust.h"

namespace lockstep::launcher {
namespace {

constexpr int kDefaultPort = 29400;  // torchrun's
// After the end of the job, how long the other agents have to see it.
constexpr Duration kFarewell = std::chrono::seconds(10);
// The same if a person asked twice to end, or nothing had begun.
constexpr Duration kHastyFarewell = std::chrono::seconds(1);
// For output that waits for the screen, if a person asked twice to end.
constexpr Duration kHastyScreen = std::chrono::milliseconds(500);
// How long to look for a rendezvous behind a port that is in use.
constexpr auto kProbe = std::chrono::seconds(5);

// An agent was seen to use 16 descriptors of its own. Each rank needs two pipes, a pidfd, the file
// for its report, its log, and its connection to the store. If ranks may be restarted, each also
// needs the memory that is kept for it.
void require_files_for(const LaunchSpec& spec, bool logs) {
  const int ranks = spec.nproc;
  const bool copies = !spec.output_filters.empty() || !spec.error_filters.empty();
  // A log tree has two files of each rank, and two copies of its lines with filters.
  const int64_t own = 17, of_rank = 6 + spec.may_restart() + logs + 2 * copies;
  require_files(static_cast<int>(std::min<int64_t>(own + of_rank * ranks, 1 << 29)),
                str("an agent of ", ranks, ranks == 1 ? " rank" : " ranks"));
}

void validate(const LaunchSpec& spec) {
  check(!spec.argv.empty(), "[launch] no program given");
  check(spec.nproc >= 1, "[launch] the number of ranks must be at least 1, got ", spec.nproc);
  check(spec.min_nproc >= 0 && spec.min_nproc <= spec.nproc, "[launch] at least ", spec.min_nproc,
        " rank(s) are more than the ", spec.nproc, " that are started");
  check(spec.min_nodes >= 0 && spec.min_nodes <= spec.nodes, "[launch] at least ", spec.min_nodes,
        " node(s) are more than the ", spec.nodes, " that may take part");
  check(spec.nproc <= AgentPage::kMostRanks, "[launch] a host runs at most ", AgentPage::kMostRanks,
        " ranks, got ", spec.nproc);
  check(spec.nodes >= 1, "[launch] the number of nodes must be at least 1, got ", spec.nodes);
  check(spec.max_restarts >= 0, "[launch] the number of restarts cannot be negative, got ",
        spec.max_restarts);
  check(spec.node_rank >= -1 && spec.node_rank < spec.nodes, "[launch] node rank ", spec.node_rank,
        " does not exist among ", spec.nodes, " node(s)");
  check(spec.nodes == 1 || !spec.endpoint.empty(), "[launch] ", spec.nodes,
        " nodes need a rendezvous: give host:port of node 0");
  check(spec.nodes == 1 || !spec.run_id.empty(), "[launch] ", spec.nodes,
        " nodes need a run id that is equal on all of them");
  check(spec.nodes == 1 || spec.job_values.empty(),
        "[launch] values for the job's store are for a single node, not for ", spec.nodes);
  check(spec.master_port >= 0 && spec.master_port <= 65535,
        "[launch] expected a master port from 0 to 65535, got ", spec.master_port);
  check(spec.lease.count() > 0, "[launch] the lease of a node must be above 0 s, got ",
        seconds(spec.lease), " s");
  for (const int rank : spec.shown_local_ranks)
    check(rank >= 0 && rank < spec.nproc, "[launch] local rank ", rank, " does not exist among ",
          spec.nproc, " rank(s)");
}

// The time limit for a rendezvous in this agent's own process. It cannot be lost, but it may be
// slow on a machine that stalls for seconds. So this agent keeps waiting for it; and the rendezvous
// keeps waiting for the agent if that is the only node.
constexpr auto kOwnServer = std::chrono::seconds(60);

JobShape shape_of(const LaunchSpec& spec, const std::string& run_id) {
  JobShape shape;
  shape.run_id = run_id;
  shape.nodes = spec.nodes;
  shape.min_nodes = spec.min_nodes;
  shape.spare_timeout = spec.spare_timeout;
  shape.max_restarts = spec.max_restarts;
  if (spec.failure_code == FailureCode::lockstep) shape.final_code = kWrongUse;
  shape.saves_when_stopped = spec.hold_stop_signals;
  shape.join_timeout = spec.join_timeout;
  shape.lease = spec.nodes == 1 ? std::max<Duration>(kOwnServer, spec.lease) : Duration(spec.lease);
  return shape;
}

// Several nodes need a token, unless all of them are on this machine.
Trust trust_of(const LaunchSpec& spec) {
  Trust trust = trust_from_environment();
  trust.plaintext = trust.plaintext || spec.plaintext;
  const std::string host =
      spec.endpoint.empty() ? "" : Endpoint::parse(spec.endpoint, kDefaultPort).host;
  const bool here = spec.nodes == 1 || is_loopback_host(host);
  check(here || trust.token || trust.plaintext, "[launch] ", spec.nodes, " nodes meet at ",
        spec.endpoint, ", and this job has no token: ", how_to_trust());
  if (!here && !trust.token)
    log::warn("[launch] this job has no token: its traffic is clear text, and whoever reaches ",
              spec.endpoint, " can take it over");
  return trust;
}

// What the ranks need to know of the job's token. They get it in a file: other programs of this
// host may show their environment.
class TokenForRanks {
 public:
  TokenForRanks(const Trust& trust, LaunchSpec& spec) {
    if (trust.plaintext) spec.environment.emplace_back("LOCKSTEP_PLAINTEXT", "1");
    if (!trust.token) return;
    const char* file = std::getenv("LOCKSTEP_JOB_TOKEN_FILE");
    std::string path = file && *file ? std::filesystem::absolute(file).string() : "";
    if (path.empty()) {
      copy_.emplace("lockstep-token", trust.token->text());
      path = copy_->path();
      ::unsetenv("LOCKSTEP_JOB_TOKEN");
    }
    spec.environment.emplace_back("LOCKSTEP_JOB_TOKEN_FILE", path);
  }

 private:
  std::optional<MemoryFile> copy_;
};

// How this agent takes part in the rendezvous: as its server or as a guest.
struct Meeting {
  Endpoint endpoint;  // as this host's ranks and the client reach it
  std::unique_ptr<RendezvousServer> server;
  std::string in_use;  // why this agent does not serve although it should; else empty
};

// Where to listen so that all nodes reach `host`.
std::string listen_place(const LaunchSpec& spec, const std::string& host) {
  const std::string place = listen_host(host);
  if (place == host || spec.nodes == 1) return host;
  log::warn("[launch] on this machine, '", host,
            "' means loopback (see /etc/hosts), so the "
            "rendezvous listens on all of its interfaces: give its address in --rdzv-endpoint");
  return place;
}

Meeting meet(const LaunchSpec& spec, const std::string& run_id, const Trust& trust) {
  Meeting meeting;
  if (spec.endpoint.empty()) {
    meeting.endpoint = {str(kUnixSocket, "lockstep-", random_id(), random_id()), 0};
    meeting.server = std::make_unique<RendezvousServer>(meeting.endpoint, shape_of(spec, run_id));
    return meeting;
  }
  meeting.endpoint = Endpoint::parse(spec.endpoint, kDefaultPort);
  const bool serve = spec.node_rank == 0 || spec.nodes == 1 ||
                     (spec.node_rank < 0 && is_local(meeting.endpoint.host));
  if (!serve) return meeting;
  try {
    meeting.server = std::make_unique<RendezvousServer>(
        Endpoint{listen_place(spec, meeting.endpoint.host), meeting.endpoint.port},
        shape_of(spec, run_id), std::nullopt, trust);
    meeting.endpoint.port = meeting.server->port();
  } catch (const AddressInUse& e) {
    // Without node ranks, the agents of one host race for the port, and the losers are guests. The
    // rendezvous of another job refuses the guest itself.
    meeting.in_use = e.what();
  }
  return meeting;
}

Node describe_node(const LaunchSpec& spec, const std::string& node_id, const Meeting& meeting) {
  Node node;
  node.node_id = node_id;
  node.host = host_name();
  node.pid = ::getpid();
  node.slots = spec.nproc;
  node.min_slots = spec.min_nproc;
  node.node_rank = spec.node_rank;
  // Ranks of a single node, or of several agents on one host, need only loopback.
  const bool loopback = spec.nodes == 1 || is_loopback_host(meeting.endpoint.host);
  node.master_addr = !spec.master_addr.empty()  ? spec.master_addr
                     : !spec.local_addr.empty() ? spec.local_addr
                     : loopback                 ? "127.0.0.1"
                                                : host_name();
  node.master_port = spec.master_port != 0 ? spec.master_port : free_port("");
  return node;
}

// Makes the node a member of the job. Throws as RendezvousClient::join() does.
void join(const LaunchSpec& spec, const Node& node, const Meeting& meeting,
          RendezvousClient& client) {
  // The rendezvous of this process answers soon, even if the limit for other nodes is short.
  const Duration limit = meeting.server ? std::max<Duration>(kOwnServer, spec.join_timeout)
                         : meeting.in_use.empty() ? Duration(spec.join_timeout)
                                                  : std::min<Duration>(kProbe, spec.join_timeout);
  try {
    client.join(node, spec.nodes, spec.max_restarts, limit, [] { return true; });
  } catch (const EnvironmentError& e) {
    if (!meeting.in_use.empty())
      throw EnvironmentError(meeting.in_use +
                             ", and not by a rendezvous that answers; choose another port");
    throw;
  }
}

// Waits until the screen has taken all output, because none must be lost. A reader that does not
// read is not waited for without a limit. A request to stop shortens the wait.
void finish_screen(ScreenWriter& screen, bool failed, Farewell& farewell, Duration limit) {
  const auto unread = [&] {
    return (failed || farewell.asked()) && screen.stalled() > ScreenWriter::kUnread;
  };
  farewell.wait_until([&] { return screen.all_written() || unread(); }, limit);
  if (!screen.all_written()) screen.give_up();
}

// Tells the other nodes that this one is done. If it serves them, waits until they know how the job
// ended.
void take_leave(RendezvousClient& client, Courier& courier, RendezvousServer* server,
                Farewell& farewell, Duration limit) {
  courier.send([&] { client.leave(); });
  const auto has_left = [&] {
    try {
      return courier.idle();
    } catch (const Error&) {  // this node never joined; the result does not depend on it
      return true;
    }
  };
  const bool left = farewell.wait_until(has_left, limit);
  if (!server || !left) return;
  if (!farewell.wait_until([&] { return server->wait_until_empty(Duration::zero()); }, limit))
    log::warn("[launch] some nodes did not report that they are done within ", seconds(limit),
              " s");
}

}  // namespace

LaunchResult launch(const LaunchSpec& given) {
  validate(given);
  LaunchSpec spec = given;
  const Trust trust = trust_of(spec);
  const TokenForRanks token_for_ranks(trust, spec);
  const std::string program = find_program(spec.program.empty() ? spec.argv.front() : spec.program);
  if (!spec.log_dir.empty() && !spec.log_tree) {
    std::error_code error;
    std::filesystem::create_directories(spec.log_dir, error);
    if (error)
      throw EnvironmentError(
          str("[launch] cannot make the log folder '", spec.log_dir, "': ", error.message()));
  }
  const std::string run_id = spec.run_id.empty() ? random_id() : spec.run_id;
  const std::string node_id = str(host_name(), "-", ::getpid(), "-", random_id());

  const std::unique_ptr<LogTree> logs = LogTree::make(spec, run_id);
  require_files_for(spec, logs != nullptr);
  StopSignals signals(spec.more_signals);
  SharedPage page;
  Guardian guardian(*page);         // first: it must not hold descriptors that are opened later
  require_threads(19, "an agent");  // 7 of its own, and gRPC's
  Wakeup wakeup;
  ScreenWriter screen([&] { wakeup.ring(); });
  Meeting meeting = meet(spec, run_id, trust);
  if (meeting.server) {
    meeting.server->set_value(str(kJobStore, "/", kStartKey), random_id());
    for (const auto& [key, value] : spec.job_values)
      meeting.server->set_value(str(kJobStore, "/", key), value);
  }
  ClientLimits limits;
  if (meeting.server) {
    limits.lost_after = kOwnServer;
  } else {
    // Whoever holds the rendezvous cannot lose touch with it.
    limits.renewed = [&page](Duration until) { page->lease_until_ns = until.count(); };
  }
  RendezvousClient client(
      meeting.endpoint, run_id, [&] { wakeup.ring(); }, limits, trust);
  Courier courier([&] { wakeup.ring(); });
  // However this ends, no call to the rendezvous may hold up the courier.
  const std::unique_ptr<RendezvousClient, void (*)(RendezvousClient*)> abandon(
      &client, [](RendezvousClient* it) { it->abandon(); });

  LaunchResult result;
  bool insisted = false, joined = false;
  StopWish wish;
  {
    Agent agent({spec, program, run_id, node_id, meeting.endpoint, page, guardian, signals, client,
                 courier, wakeup, screen, logs.get()});
    const Node node = describe_node(spec, node_id, meeting);
    result = agent.run([&spec, &meeting, &client, node] { join(spec, node, meeting, client); });
    insisted = agent.insisted();
    joined = agent.joined();
    wish = agent.wish();
  }
  Farewell farewell(signals, wish, /*usr1_asks=*/spec.hold_stop_signals);
  // An agent that was not admitted needs only a short farewell.
  take_leave(client, courier, meeting.server.get(), farewell,
             insisted || !joined ? kHastyFarewell : kFarewell);
  finish_screen(screen, /*failed=*/result.exit_code != 0, farewell,
                insisted ? kHastyScreen : kLongestLimit);
  return result;
}

}  // namespace lockstep::launcher
