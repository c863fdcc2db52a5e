#include "launcher/rank/rank_env.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "core/base/byte_text.h"
#include "core/base/error.h"
#include "launcher/base/failure_report.h"
#include "launcher/rank/grpc_store.h"
#include "launcher/rank/job_environment.h"
#include "launcher/rank/lease.h"
#include "launcher/rank/served_store.h"

namespace lockstep::launcher {
namespace {

RankEnv checked(RankEnv found) {
  check(found.size >= 1 && found.rank >= 0 && found.rank < found.size,
        "[launcher] rank must be in [0, world size), got rank ", found.rank, " of ", found.size,
        " from ", found.source);
  check(found.local_size >= 1 && found.local_rank >= 0 && found.local_rank < found.local_size,
        "[launcher] local rank must be in [0, local size), got ", found.local_rank, " of ",
        found.local_size, " from ", found.source);
  return found;
}

RankEnv detect(std::optional<int> rank_flag, std::optional<int> size_flag) {
  if (rank_flag || size_flag) {
    check(rank_flag && size_flag, "[launcher] give rank and world size together, or neither");
    return {*rank_flag, *size_flag, number_from("LOCAL_RANK", *rank_flag),
            number_from("LOCAL_WORLD_SIZE", *size_flag), "flags"};
  }
  if (const auto found = rank_from_variables()) return *found;
  return rank_from_launcher().value_or(RankEnv{});
}

std::shared_ptr<comm::Store> agents_store(Duration limit) {
  return std::make_shared<GrpcStore>(
      Endpoint::parse(env("LOCKSTEP_STORE"), 0), env("LOCKSTEP_RUN_ID"),
      static_cast<uint64_t>(number_from("LOCKSTEP_EPOCH")), limit, trust_from_environment());
}

// Says which variables could name the store, and which of them is missing.
std::string missing_address() {
  const bool address = !env("MASTER_ADDR").empty(), port = !env("MASTER_PORT").empty();
  if (address != port)
    return str(address ? "MASTER_ADDR" : "MASTER_PORT", " is set, but not ",
               address ? "MASTER_PORT" : "MASTER_ADDR");
  return "start the ranks with 'lockstep run' or set MASTER_ADDR and MASTER_PORT on all of them";
}

}  // namespace

RankEnv detect_rank(std::optional<int> rank_flag, std::optional<int> size_flag) {
  return checked(detect(rank_flag, size_flag));
}

std::string launcher_job() {
  try {
    const auto found = rank_from_launcher();
    return found ? found->job : "";
  } catch (const UsageError&) {  // the launcher does not say enough
    return "";
  }
}

bool has_agent() { return !env("LOCKSTEP_STORE").empty(); }

std::string run_id() { return has_agent() ? env("LOCKSTEP_RUN_ID") : ""; }

AgentEnv agent_env() {
  if (!has_agent()) return {};
  return {number_from("GROUP_RANK"), number_from("TORCHELASTIC_RESTART_COUNT"),
          env("LOCKSTEP_KEPT_MEMORY"), number_from("LOCKSTEP_EPOCH")};
}

bool has_store() { return has_agent() || served_endpoint().has_value(); }

std::shared_ptr<comm::Store> connect_store(std::chrono::nanoseconds limit) {
  if (has_agent()) {
    watch_lease();
    return comm::with_prefix(agents_store(limit),
                             "epoch-" + std::to_string(number_from("LOCKSTEP_EPOCH")));
  }
  const std::optional<Endpoint> endpoint = served_endpoint();
  check(endpoint.has_value(), "[launcher] no store to connect to: ", missing_address());
  const RankEnv self = detect_rank();
  const std::string run_id = env("LOCKSTEP_RUN_ID");
  return served_store(*endpoint,
                      {.job = run_id.empty() ? self.job : str("run '", run_id, "'"),
                       .rank = self.rank,
                       .size = self.size},
                      limit, trust_from_environment());
}

std::shared_ptr<comm::Store> connect_job_store(std::chrono::nanoseconds limit) {
  const std::string address = env("LOCKSTEP_STORE");
  check(!address.empty(),
        "[launcher] LOCKSTEP_STORE is not set: only ranks of 'lockstep run' and 'lockstep train "
        "-n' have such a store");
  watch_lease();
  return comm::with_prefix(agents_store(limit), kJobStore);
}

namespace {

// Longer than any of our reports.
constexpr size_t kLongestReport = 1 << 16;

bool tells_of_failure(int fd) {
  std::string text(kLongestReport, '\0');
  const ssize_t got = ::pread(fd, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  const auto earlier = parse_failure_report(text);
  return earlier && !earlier->saved;
}

// Writes the report where the agent looks. A rank may run several programs one after another, so a
// report may be there already. An earlier failure is the cause of a later one and stays. Otherwise
// the later report replaces the earlier one.
void leave_report(const nlohmann::json& report) {
  const std::string path = env("LOCKSTEP_ERROR_FILE");
  if (path.empty()) return;
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  const std::string text = report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  // Best effort: without a report the agent still sees the exit code.
  if ((report.contains("saved") || !tells_of_failure(fd)) && ::ftruncate(fd, 0) == 0) {
    [[maybe_unused]] const ssize_t written = ::write(fd, text.data(), text.size());
  }
  ::close(fd);
}

}  // namespace

void report_failure(std::string_view message, bool caused_by_peer) noexcept {
  try {
    leave_report({{"message", text_of_bytes(message)},
                  {"caused_by_peer", caused_by_peer},
                  {"monotonic_ns", Clock::now().time_since_epoch().count()}});
  } catch (...) {  // another failure is being handled already
  }
}

void report_saved() noexcept {
  try {
    leave_report({{"saved", true}});
  } catch (...) {  // without a report, the agent counts a failure
  }
}

}  // namespace lockstep::launcher
