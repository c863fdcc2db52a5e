#include "launcher/rank/job_environment.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "core/base/error.h"
#include "core/base/number_text.h"

namespace lockstep::launcher {
namespace {

template <typename T>
T parsed(const char* name, T missing) {
  const std::string text = env(name);
  if (text.empty()) return missing;
  const std::optional<T> value = parse_number<T>(text);
  check(value.has_value(), "[launcher] environment variable ", name, " must be a number, got '",
        text, "'");
  return *value;
}

bool is_set(const char* name) { return !env(name).empty(); }

// Slurm

// Steps that srun did not make have numbers from here on: the batch script's, and that of salloc's
// interactive shell. Such a step has one process, although SLURM_NTASKS counts the whole
// allocation.
constexpr int64_t kFirstSpecialStep = 0xfffffff0;

int slurm_tasks() {
  return number_from("SLURM_STEP_NUM_TASKS",
                     number_from("SLURM_NTASKS", number_from("SLURM_NPROCS", 1)));
}

bool in_slurm_step() {
  return is_set("SLURM_STEP_ID") && parsed<int64_t>("SLURM_STEP_ID", 0) < kFirstSpecialStep;
}

// Number of tasks on a node of the step, from a text such as "2(x3),1".
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

// The first host of a list: "n01-ib" of "n[01-03,7]-ib,m".
std::string first_slurm_host(const std::string& list) {
  const size_t end = list.find_first_of("[,");
  std::string host = list.substr(0, end);
  if (end == std::string::npos || list[end] == ',') return host;
  host += list.substr(end + 1, list.find_first_of("-,]", end) - end - 1);
  const size_t close = list.find(']', end);
  if (close == std::string::npos) return host;
  return host + list.substr(close + 1, list.find(',', close) - close - 1);
}

std::optional<RankEnv> rank_from_slurm() {
  if (!in_slurm_step() || slurm_tasks() <= 1) return std::nullopt;
  // A requeued job keeps its number, and processes of its first run may still exist.
  const std::string again =
      is_set("SLURM_RESTART_COUNT") ? str(", restart ", env("SLURM_RESTART_COUNT")) : "";
  return RankEnv{number_from("SLURM_PROCID"),
                 slurm_tasks(),
                 number_from("SLURM_LOCALID"),
                 slurm_local_size(number_from("SLURM_NODEID")),
                 "Slurm",
                 str("Slurm step ", env("SLURM_JOB_ID"), ".", env("SLURM_STEP_ID"), again)};
}

// A port per step, because steps of one job, and several jobs, may share a host.
int slurm_port() {
  const int64_t job = parsed<int64_t>("SLURM_JOB_ID", 0),
                step = parsed<int64_t>("SLURM_STEP_ID", 0);
  return 29500 + static_cast<int>((job + 97 * step) % 10000);
}

// Launchers that name rank and size

struct Variables {
  const char *launcher, *rank, *size;
  const char *local_rank, *local_size, *nodes;  // nullptr: the launcher has none
  // A number or name that no other job of the machine has. nullptr: none.
  const char* job;
};
// The first launcher that is seen counts, because some set the variables of others too.
constexpr std::array kLaunchers = {
    Variables{"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
              "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", nullptr,
              "PMIX_NAMESPACE"},
    Variables{"jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK",
              "JSM_NAMESPACE_LOCAL_SIZE", nullptr, "PMIX_NAMESPACE"},
    Variables{"Flux", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID", nullptr,
              "FLUX_JOB_NNODES", "FLUX_JOB_ID"},
    Variables{"PALS", "PALS_RANKID", "PMI_SIZE", "PALS_LOCAL_RANKID", "PMI_LOCAL_SIZE", nullptr,
              "PALS_APID"},
    Variables{"MVAPICH2", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK",
              "MV2_COMM_WORLD_LOCAL_SIZE", nullptr, nullptr},
    Variables{"MPICH or Intel MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
              nullptr, nullptr},
};
// Launchers that name only the rank.
constexpr std::array kRankOnly = {std::pair{"a PMIx launcher", "PMIX_RANK"},
                                  std::pair{"aprun", "ALPS_APP_PE"}};

[[noreturn]] void refuse_half(const char* launcher, const char* there, const char* missing) {
  throw UsageError(str(
      "[launcher] ", launcher, " started this process (", there, " is ", env(there), "), but ",
      missing ? str(missing, " is not set") : std::string("does not say how many ranks there are"),
      ": set RANK and WORLD_SIZE, and MASTER_ADDR and MASTER_PORT, for every rank, or use "
      "`lockstep run`"));
}

RankEnv rank_from(const Variables& names) {
  for (const auto& [there, missing] :
       {std::pair{names.rank, names.size}, std::pair{names.size, names.rank}})
    if (!is_set(missing)) refuse_half(names.launcher, there, missing);
  RankEnv found;
  found.rank = number_from(names.rank);
  found.size = number_from(names.size);
  found.source = names.launcher;
  if (names.job && is_set(names.job)) found.job = str(names.launcher, " job ", env(names.job));
  const bool local = is_set(names.local_rank);
  found.local_rank = local ? number_from(names.local_rank) : found.rank;
  const int nodes = names.nodes ? std::max(1, number_from(names.nodes, 1)) : 1;
  found.local_size = names.local_size && is_set(names.local_size)
                         ? number_from(names.local_size)
                         : std::max((found.size + nodes - 1) / nodes, found.local_rank + 1);
  return found;
}

// srun may set MPICH's variables as well, with the same values. Slurm's own variables say more.
bool is_slurms(const RankEnv& found, const Variables& names, const std::optional<RankEnv>& slurm) {
  return slurm && names.rank == std::string_view("PMI_RANK") && found.rank == slurm->rank &&
         found.size == slurm->size;
}

// Whether torchrun keeps its own kind of store at MASTER_ADDR:MASTER_PORT.
bool has_torchruns_store() {
  const std::string used = env("TORCHELASTIC_USE_AGENT_STORE");
  return used == "True" || used == "true" || used == "1";
}

Endpoint master_endpoint() {
  const int64_t port = parsed<int64_t>("MASTER_PORT", 0);
  check(port >= 1 && port <= 65535,
        "[launcher] environment variable MASTER_PORT must be from 1 to 65535, got '",
        env("MASTER_PORT"), "'");
  return {bare_host(env("MASTER_ADDR"), "environment variable MASTER_ADDR"),
          static_cast<int>(port)};
}

}  // namespace

std::string env(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

int number_from(const char* name, int missing) { return parsed(name, missing); }

std::optional<RankEnv> rank_from_variables() {
  const bool rank = is_set("RANK"), size = is_set("WORLD_SIZE");
  if (!rank && !size) return std::nullopt;
  check(rank && size, "[launcher] environment has ", rank ? "RANK" : "WORLD_SIZE", " but not ",
        rank ? "WORLD_SIZE" : "RANK", "; set both or neither");
  RankEnv found{number_from("RANK"), number_from("WORLD_SIZE"), 0, 0, "RANK/WORLD_SIZE", ""};
  found.local_rank = number_from("LOCAL_RANK", found.rank);
  found.local_size = number_from("LOCAL_WORLD_SIZE", found.size);
  if (is_set("TORCHELASTIC_RUN_ID"))
    found.job = str("torchrun's run '", env("TORCHELASTIC_RUN_ID"), "'");
  return found;
}

std::optional<RankEnv> rank_from_launcher() {
  const std::optional<RankEnv> slurm = rank_from_slurm();
  for (const Variables& names : kLaunchers) {
    if (!is_set(names.rank) && (names.size == std::string_view("PMI_SIZE") || !is_set(names.size)))
      continue;
    const RankEnv found = rank_from(names);
    return is_slurms(found, names, slurm) ? slurm : found;
  }
  if (slurm || is_set("SLURM_STEP_ID")) return slurm;  // PMIx serves steps of one process, too
  for (const auto& [launcher, rank] : kRankOnly)
    if (is_set(rank)) refuse_half(launcher, rank, nullptr);
  return std::nullopt;
}

std::optional<Endpoint> served_endpoint() {
  const bool address = is_set("MASTER_ADDR"), port = is_set("MASTER_PORT");
  if (address && port) {
    const Endpoint endpoint = master_endpoint();
    check(!has_torchruns_store(),
          "[launcher] torchrun keeps its own store at MASTER_ADDR and MASTER_PORT, ",
          endpoint.text(), " (TORCHELASTIC_USE_AGENT_STORE is ",
          env("TORCHELASTIC_USE_AGENT_STORE"),
          "), so that these ranks have none: start them with `lockstep run`, which has torchrun's "
          "options");
    return endpoint;
  }
  if (!rank_from_slurm()) return std::nullopt;
  // A step on one node needs no name that must be resolved.
  const bool one_node = number_from("SLURM_STEP_NUM_NODES", 0) == 1;
  const std::string host = one_node ? "127.0.0.1" : first_slurm_host(env("SLURM_STEP_NODELIST"));
  check(!host.empty(), "[launcher] Slurm's step of ", slurm_tasks(),
        " tasks does not say where it runs (SLURM_STEP_NODELIST is not set): set MASTER_ADDR and "
        "MASTER_PORT for all of them");
  return Endpoint{host, slurm_port()};
}

}  // namespace lockstep::launcher
