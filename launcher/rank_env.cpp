#include "launcher/rank_env.h"

#include <charconv>
#include <cstdlib>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/error.h"
#include "launcher/grpc_store.h"
#include "launcher/rendezvous/server.h"

namespace lockstep::launcher {
namespace {

std::string env(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

int number(const char* name, int fallback = 0) {
  const std::string text = env(name);
  if (text.empty()) return fallback;
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(error == std::errc() && end == text.data() + text.size(), "[launcher] environment variable ", name, " must be a number, got '",
        text, "'");
  return value;
}

RankEnv checked(RankEnv found) {
  check(found.size >= 1 && found.rank >= 0 && found.rank < found.size, "[launcher] rank must be in [0, world size), got rank ", found.rank,
        " of ", found.size, " from ", found.source);
  check(found.local_size >= 1 && found.local_rank >= 0 && found.local_rank < found.local_size,
        "[launcher] local rank must be in [0, local size), got ", found.local_rank, " of ", found.local_size, " from ", found.source);
  return found;
}

bool in_slurm_step() { return !env("SLURM_STEP_ID").empty() && number("SLURM_NTASKS", number("SLURM_NPROCS", 1)) > 1; }

// "2(x3),1": how many tasks the k-th node of the step has.
int slurm_local_size(int node) {
  const std::string text = env("SLURM_STEP_TASKS_PER_NODE");
  const char* at = text.c_str();
  for (int first = 0; *at;) {
    char* end = nullptr;
    const long tasks = std::strtol(at, &end, 10);
    long times = 1;
    if (std::string_view(end).starts_with("(x")) times = std::strtol(end + 2, &end, 10);
    if (end == at) break;
    if (node < first + times) return static_cast<int>(tasks);
    first += static_cast<int>(times);
    const size_t skip = std::string_view(end).find_first_not_of("),");
    if (skip == std::string_view::npos) break;
    at = end + skip;
  }
  return 1;
}

// The first host of "n[01-03,7],m": "n01".
std::string first_slurm_host(const std::string& list) {
  const size_t end = list.find_first_of("[,");
  std::string host = list.substr(0, end);
  if (end != std::string::npos && list[end] == '[') host += list.substr(end + 1, list.find_first_of("-,]", end) - end - 1);
  return host;
}

RankEnv detect(std::optional<int> rank_flag, std::optional<int> size_flag) {
  if (rank_flag || size_flag) {
    check(rank_flag && size_flag, "[launcher] give rank and world size together, or neither");
    return {*rank_flag, *size_flag, number("LOCAL_RANK", *rank_flag), number("LOCAL_WORLD_SIZE", *size_flag), "flags"};
  }
  if (!env("RANK").empty() || !env("WORLD_SIZE").empty()) {
    check(!env("RANK").empty() && !env("WORLD_SIZE").empty(), "[launcher] environment has ", env("RANK").empty() ? "WORLD_SIZE" : "RANK",
          " but not ", env("RANK").empty() ? "RANK" : "WORLD_SIZE", "; set both or neither");
    const int rank = number("RANK");
    const int size = number("WORLD_SIZE");
    return {rank, size, number("LOCAL_RANK", rank), number("LOCAL_WORLD_SIZE", size), "RANK/WORLD_SIZE"};
  }
  if (!env("OMPI_COMM_WORLD_SIZE").empty())
    return {number("OMPI_COMM_WORLD_RANK"), number("OMPI_COMM_WORLD_SIZE"), number("OMPI_COMM_WORLD_LOCAL_RANK"),
            number("OMPI_COMM_WORLD_LOCAL_SIZE", 1), "Open MPI"};
  if (in_slurm_step())
    return {number("SLURM_PROCID"), number("SLURM_NTASKS", number("SLURM_NPROCS", 1)), number("SLURM_LOCALID"),
            slurm_local_size(number("SLURM_NODEID")), "Slurm"};
  return {};
}

// Where rank 0 serves the store when there is no launcher of ours; empty host: nowhere.
Endpoint self_served() {
  if (!env("MASTER_ADDR").empty() && !env("MASTER_PORT").empty()) return {env("MASTER_ADDR"), number("MASTER_PORT")};
  // One port per job of a host, as several jobs may share it.
  if (in_slurm_step()) return {first_slurm_host(env("SLURM_STEP_NODELIST")), 29500 + number("SLURM_JOB_ID") % 10000};
  return {};
}

// The store of rank 0, served by itself. The server stays until the other ranks no longer need it.
class ServedStore final : public comm::Store {
 public:
  ServedStore(std::unique_ptr<RendezvousServer> server, std::shared_ptr<comm::Store> store, int size, int rank)
      : server_(std::move(server)), store_(std::move(store)), size_(size), rank_(rank) {}
  ~ServedStore() override {
    try {
      if (!server_) store_->set(str("launcher/left/", rank_), "");
      for (int i = 1; server_ && i < size_; ++i) store_->get(str("launcher/left/", i), std::chrono::seconds(10));
    } catch (const Error&) {  // a rank that failed cannot say good-bye, and whoever waits for it has its own error
    }
  }
  void set(const std::string& key, const std::string& value) override { store_->set(key, value); }
  std::string get(const std::string& key, Duration timeout) override { return store_->get(key, timeout); }
  void wait(const std::vector<std::string>& keys, Duration timeout) override { store_->wait(keys, timeout); }
  int64_t add(const std::string& key, int64_t delta) override { return store_->add(key, delta); }
  std::string compare_and_set(const std::string& key, const std::string& expected, const std::string& desired) override {
    return store_->compare_and_set(key, expected, desired);
  }

 private:
  std::unique_ptr<RendezvousServer> server_;
  std::shared_ptr<comm::Store> store_;
  int size_;
  int rank_;
};

}  // namespace

RankEnv detect_rank(std::optional<int> rank_flag, std::optional<int> size_flag) { return checked(detect(rank_flag, size_flag)); }

AgentEnv agent_env() {
  if (env("LOCKSTEP_STORE").empty()) return {};
  return {number("GROUP_RANK"), number("TORCHELASTIC_RESTART_COUNT"), env("LOCKSTEP_KEPT_MEMORY"), number("LOCKSTEP_EPOCH")};
}

bool has_store() { return !env("LOCKSTEP_STORE").empty() || !self_served().host.empty(); }

std::shared_ptr<comm::Store> connect_store(std::chrono::nanoseconds limit) {
  if (const std::string address = env("LOCKSTEP_STORE"); !address.empty()) {
    auto store = std::make_shared<GrpcStore>(Endpoint::parse(address, 0), env("LOCKSTEP_RUN_ID"), limit);
    return comm::with_prefix(std::move(store), "epoch-" + std::to_string(number("LOCKSTEP_EPOCH")));
  }
  const Endpoint endpoint = self_served();
  check(!endpoint.host.empty(),
        "[launcher] no store to connect to: start the ranks with 'lockstep run' or set MASTER_ADDR and MASTER_PORT on all of them");
  const RankEnv self = detect_rank();
  const std::string run_id = env("LOCKSTEP_RUN_ID");
  std::unique_ptr<RendezvousServer> server;
  if (self.rank == 0) server = std::make_unique<RendezvousServer>(listen_host(endpoint.host), endpoint.port, JobShape{.run_id = run_id});
  return std::make_shared<ServedStore>(std::move(server), std::make_shared<GrpcStore>(endpoint, run_id, limit), self.size, self.rank);
}

std::shared_ptr<comm::Store> connect_job_store(std::chrono::nanoseconds limit) {
  const std::string address = env("LOCKSTEP_STORE");
  check(!address.empty(), "[launcher] LOCKSTEP_STORE is not set: only ranks of 'lockstep run' and 'lockstep train -n' have such a store");
  return comm::with_prefix(std::make_shared<GrpcStore>(Endpoint::parse(address, 0), env("LOCKSTEP_RUN_ID"), limit), "job");
}

void report_failure(std::string_view message, bool caused_by_peer) noexcept {
  try {
    const std::string path = env("LOCKSTEP_ERROR_FILE");
    if (path.empty()) return;
    const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    struct stat info {};
    if (::fstat(fd, &info) == 0 && info.st_size == 0) {
      const nlohmann::json report = {
          {"message", std::string(message)}, {"caused_by_peer", caused_by_peer}, {"monotonic_ns", Clock::now().time_since_epoch().count()}};
      const std::string text = report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      // Best effort: without it the agent still sees the exit code.
      [[maybe_unused]] const ssize_t written = ::write(fd, text.data(), text.size());
    }
    ::close(fd);
  } catch (...) {  // a failure is on its way already
  }
}

}  // namespace lockstep::launcher
