// LaunchSpec: what launch() and its agents start. LaunchResult: how it ended.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "launcher/base/failure.h"

namespace lockstep::launcher {

// What the screen shows of the ranks' output. Log files get all of it.
enum class Screen {
  prefixed,  // every line of the shown ranks as "[rank N] line"
  // Rank 0's output unchanged, and of the others only standard error, prefixed. Rank 0 writes into
  // a pipe. If the screen is a terminal, rank 0 gets LOCKSTEP_TTY=1 and the width in COLUMNS.
  rank0,
};

// The exit code of launch() when a rank fails.
enum class FailureCode {
  // The code of the rank that failed first, or 128 + signal if a signal ended it.
  of_rank,
  // As `lockstep` itself ends: kWrongUse if the rank ended so, else kFailed.
  lockstep,
};

// Default of LaunchSpec::freeze_timeout for ranks that count their steps (report_progress() in
// launcher/rank/lease.h).
inline constexpr std::chrono::milliseconds kFreezeTimeout{10000};

struct LaunchSpec {
  std::vector<std::string> argv;  // the program, looked up in PATH, and its arguments
  std::string program;            // the file to run, if argv[0] is only its name
  int nproc = 1;                  // ranks on this host
  // If no restart is left, the job goes on without a rank that has failed, while this host has at
  // least so many. 0: it needs all.
  int min_nproc = 0;
  std::vector<std::pair<std::string, std::string>> environment;  // added to the ranks' environment

  // Written into the job's store (connect_job_store() of rank_env.h) before any rank is started.
  // For a single node.
  std::vector<std::pair<std::string, std::string>> job_values;

  // The ranks are programs that save and stop on SIGINT, SIGTERM, SIGHUP and SIGUSR1. They start
  // with these signals blocked and unblock them once they can save. Otherwise an early stop signal
  // would kill one rank and leave the others waiting for it. If the job is asked to stop before the
  // ranks run, they are still started and then asked.
  bool hold_stop_signals = false;

  std::string log_dir;  // rank-N.log of every rank goes here; empty: no logs
  // torchrun's files instead (launcher/agent/log_tree.h): a folder below log_dir for this run, and
  // in it one for each start of the ranks and each local rank. If log_dir is empty and the screen
  // does not show all, the folder is a temporary one.
  bool log_tree = false;
  // With log_tree: lines of standard output, or of standard error, that contain one of these are
  // copied to filtered_stdout.log, or filtered_stderr.log.
  std::vector<std::string> output_filters, error_filters;
  Screen screen = Screen::prefixed;
  std::vector<int> shown_local_ranks;  // empty: all
  // Per local rank, which streams stay off the screen: 1 standard output, 2 standard error, 3 both.
  // A missing entry hides none.
  std::vector<int> hidden_streams;

  FailureCode failure_code = FailureCode::of_rank;
  // Restarts of the whole job after a failure of any rank. Wrong use (FailureCode::lockstep) is not
  // restarted.
  int max_restarts = 0;
  // Signals beside those of launcher/base/stop_wish.h. SIGQUIT asks the job to stop, the others are
  // passed on to the ranks as they are.
  std::vector<int> more_signals;
  // Every rank gets LOCAL_RANK=0, and CUDA_VISIBLE_DEVICES with the one device that is its own.
  bool virtual_local_rank = false;
  // Time from SIGTERM to SIGKILL after a failure.
  std::chrono::milliseconds grace{5000};
  // The same time if the job is asked to stop. Saving takes time.
  std::chrono::milliseconds stop_grace{120000};

  // How long a rank may be stopped (SIGSTOP) or frozen by its control group before the agent ends
  // it and counts that as its failure. 0: for ever. Not set: see kFreezeTimeout.
  std::optional<std::chrono::milliseconds> freeze_timeout = {};

  int nodes = 1;
  // With how few nodes the job begins and goes on; 0: only with all. Equal on all nodes.
  int min_nodes = 0;
  // How long such a job waits for more nodes: before the first epoch, and after a node was lost.
  std::chrono::milliseconds spare_timeout{10000};
  int node_rank = -1;  // -1: in order of arrival
  // host:port of the rendezvous. Required for several nodes. A single node takes a Unix
  // socket that only this user's processes may use.
  std::string endpoint;
  // Talk to other machines without the job's token, in clear text, with anybody who reaches the
  // port (launcher/trust/trust.h).
  bool plaintext = false;
  // Empty: made up, which is possible for a single node only.
  std::string run_id;
  std::string role = "default";
  std::string master_addr;                         // empty: the host of rank 0
  std::string local_addr;                          // how others reach this host; empty: its name
  int master_port = 0;                             // 0: a free port on it
  std::chrono::milliseconds join_timeout{300000};  // limit for all nodes to arrive
  // A node that is silent for this long is lost. Nodes report at least twice a second, so a busy
  // machine is tolerated.
  std::chrono::milliseconds lease{5000};

  // Whether ranks may be started more than once.
  bool may_restart() const {
    return max_restarts > 0 || (min_nproc > 0 && min_nproc < nproc) ||
           (min_nodes > 0 && min_nodes < nodes);
  }
};

struct LaunchResult {
  // 0: done. 3: the ranks were asked to stop and said that they saved (report_saved() in
  // rank_env.h). Any other code is as LaunchSpec::failure_code says.
  int exit_code = 0;
  std::optional<Failure> failure;
  int restarts = 0;
};

}  // namespace lockstep::launcher
