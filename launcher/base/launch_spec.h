// LaunchSpec: what launch() and its agents are to start, and LaunchResult: how it ended.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "launcher/base/failure.h"

namespace lockstep::launcher {

// What the screen shows of the ranks' output. Log files get all of it in any case.
enum class Screen {
  prefixed,  // every line of the shown ranks as "[rank N] line"
  // Rank 0 as it is; of the others only standard error, prefixed. If the screen is a terminal, rank
  // 0 learns that (its own output is a pipe): LOCKSTEP_TTY=1, and its width as COLUMNS.
  rank0,
};

// The exit code of launch() when a rank fails.
enum class FailureCode {
  of_rank,   // the code of the rank that failed first; 128 + signal where a signal ended it
  lockstep,  // as `lockstep` itself ends: kWrongUse where the rank did, else kFailed
};

struct LaunchSpec {
  std::vector<std::string> argv;  // the program, looked up in PATH, and its arguments
  std::string program;            // the file to run, where argv[0] is only its name
  int nproc = 1;                  // ranks on this host
  std::vector<std::pair<std::string, std::string>> environment;  // added to the ranks' environment

  // What lies in the job's store (connect_job_store() of rank_env.h) before any rank is started.
  // For a single node.
  std::vector<std::pair<std::string, std::string>> job_values;

  // The ranks are programs that save and stop on each of SIGINT, SIGTERM, SIGHUP and SIGUSR1. They
  // begin with these signals blocked and let them through once they can save: a rank that is asked
  // to stop before that would just die, and leave the others waiting for it. So they are started,
  // and asked, even where the job was asked to stop before.
  bool hold_stop_signals = false;

  std::string log_dir;  // rank-N.log of every rank goes here; empty: no logs
  Screen screen = Screen::prefixed;
  std::vector<int> shown_local_ranks;  // empty: all
  // Per local rank, which streams stay off the screen: 1 standard output, 2 standard error, 3 both.
  // Missing: none.
  std::vector<int> hidden_streams;

  FailureCode failure_code = FailureCode::of_rank;
  int max_restarts = 0;  // of the whole job, after a failure of any rank, but for wrong use
                         // (FailureCode::lockstep)
  std::chrono::milliseconds grace{5000};  // from SIGTERM to SIGKILL, after a failure
  std::chrono::milliseconds stop_grace{
      120000};  // the same when the job is asked to stop: saving takes time

  int nodes = 1;
  int node_rank = -1;    // -1: in order of arrival
  std::string endpoint;  // host:port of the rendezvous, must be given for several nodes; one node
                         // takes a free port of loopback
  std::string run_id;    // empty: made up, which several nodes cannot do
  std::string role = "default";
  std::string master_addr;                         // empty: the host of rank 0
  int master_port = 0;                             // 0: a free port on it
  std::chrono::milliseconds join_timeout{300000};  // until all nodes are there
  // A node that is silent for this long is lost. It reports twice a second or more, so this
  // tolerates a busy machine.
  std::chrono::milliseconds lease{5000};
};

struct LaunchResult {
  // 0 done; 3 the ranks were asked to stop and said that they saved (report_saved() in rank_env.h);
  // else as LaunchSpec::failure_code says.
  int exit_code = 0;
  std::optional<Failure> failure;
  int restarts = 0;
};

}  // namespace lockstep::launcher
