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

struct LaunchSpec {
  std::vector<std::string> argv;  // the program, looked up in PATH, and its arguments
  std::string program;            // the file to run, if argv[0] is only its name
  int nproc = 1;                  // ranks on this host
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
  Screen screen = Screen::prefixed;
  std::vector<int> shown_local_ranks;  // empty: all
  // Per local rank, which streams stay off the screen: 1 standard output, 2 standard error, 3 both.
  // A missing entry hides none.
  std::vector<int> hidden_streams;

  FailureCode failure_code = FailureCode::of_rank;
  // Restarts of the whole job after a failure of any rank. Wrong use (FailureCode::lockstep) is not
  // restarted.
  int max_restarts = 0;
  // Time from SIGTERM to SIGKILL after a failure.
  std::chrono::milliseconds grace{5000};
  // The same time if the job is asked to stop. Saving takes time.
  std::chrono::milliseconds stop_grace{120000};

  int nodes = 1;
  int node_rank = -1;  // -1: in order of arrival
  // host:port of the rendezvous. Required for several nodes. A single node takes a free loopback
  // port.
  std::string endpoint;
  // Empty: made up, which is possible for a single node only.
  std::string run_id;
  std::string role = "default";
  std::string master_addr;                         // empty: the host of rank 0
  int master_port = 0;                             // 0: a free port on it
  std::chrono::milliseconds join_timeout{300000};  // limit for all nodes to arrive
  // A node that is silent for this long is lost. Nodes report at least twice a second, so a busy
  // machine is tolerated.
  std::chrono::milliseconds lease{5000};
};

struct LaunchResult {
  // 0: done. 3: the ranks were asked to stop and said that they saved (report_saved() in
  // rank_env.h). Any other code is as LaunchSpec::failure_code says.
  int exit_code = 0;
  std::optional<Failure> failure;
  int restarts = 0;
};

}  // namespace lockstep::launcher
