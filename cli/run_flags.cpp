#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include <CLI/App.hpp>
#include <CLI/CLI.hpp>

#include "cli/run.h"

namespace lockstep::cli {
namespace {

using launcher::LaunchSpec;

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, substituted}));
    }
  }
  return row.back();
}

// "-n,--nproc-per-node" → the same and "--nproc_per_node".
std::string both_spellings(const std::string& names) {
  std::string out = names;
  size_t begin = 0;
  while (begin <= names.size()) {
    const size_t end = std::min(names.find(',', begin), names.size());
    std::string name = names.substr(begin, end - begin);
    begin = end + 1;
    if (!name.starts_with("--")) continue;
    std::replace(name.begin() + 2, name.end(), '-', '_');
    if (out.find(name) == std::string::npos) out += "," + name;
  }
  return out;
}

std::string variable_of(const std::string& names) {
  std::string name = "PET_" + names.substr(names.rfind("--") + 2);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c == '-' ? '_' : std::toupper(c); });
  return name;
}

// Adds options by their names.
class Adder {
 public:
  explicit Adder(CLI::App& run) : run_(run) {}
  template <typename T>
  void value(const std::string& names, T& variable, const std::string& help) {
    run_.add_option(both_spellings(names), variable, help)->envname(variable_of(names));
  }
  void flag(const std::string& names, bool& variable, const std::string& help) {
    run_.add_flag(both_spellings(names), variable, help)->envname(variable_of(names));
  }

 private:
  CLI::App& run_;
};

void add_places(Adder add, RunFlags& flags) {
  LaunchSpec& spec = flags.spec;
  add.value("-n,--np,--nproc-per-node", flags.nproc,
            "Ranks on this host: a number, MIN:MAX, auto, cpu or gpu (1)");
  add.value("--nnodes", flags.nodes,
            "Hosts that take part, N or MIN:MAX; each runs this command (1)");
  add.value("--node-rank", spec.node_rank, "This host's place among them (in order of arrival)");
  add.value("--rdzv-endpoint", spec.endpoint,
            "host:port where node 0 serves the rendezvous (port 29400)");
  add.value("--rdzv-id", spec.run_id,
            "Name of the run, equal on all hosts; must be given for several, unless srun starts "
            "the agents or --master-addr and --node-rank are given");
  add.value("--rdzv-backend", flags.rdzv_backend, "Accepted as in torchrun; there is only one");
  add.value("--rdzv-conf", flags.rdzv_conf, "join_timeout=SECONDS,lease=SECONDS");
  add.flag("--rdzv-plaintext", spec.plaintext,
           "Several hosts without a token: clear text, for a network whose users you all trust");
  add.flag("--standalone", flags.standalone,
           "One host and a free port, whatever --rdzv-endpoint says");
  add.value("--master-addr", spec.master_addr, "MASTER_ADDR of the ranks (the host of rank 0)");
  add.value("--master-port", spec.master_port, "MASTER_PORT of the ranks (a free one)");
  add.value("--local-addr", spec.local_addr,
            "How others reach this host: MASTER_ADDR if rank 0 is here (this host's name)");
  add.value("--join-timeout", flags.join_timeout, "Seconds until all hosts must be there (300)");
  add.value(
      "--spare-timeout", flags.spare_timeout,
      "With --nnodes MIN:MAX: seconds to wait for more hosts, at first and after one was lost "
      "(10)");
}

void add_hosts(CLI::App& run, RunFlags& flags) {
  run.add_option("--hosts", flags.hosts,
                 "Start on these hosts through ssh, one agent each: a,b or node[01-04,7]");
  run.add_option("--ssh", flags.ssh, "The program that --hosts uses (ssh)");
  run.add_flag("--until-eof", flags.until_eof, "Stop when standard input ends")->group("");
}

void add_ends(Adder add, RunFlags& flags) {
  add.value("--max-restarts", flags.spec.max_restarts,
            "Restart all ranks at most this many times after a failure (0)");
  add.value("--grace", flags.grace, "Seconds from SIGTERM to SIGKILL after a failure (5)");
  add.value("--stop-grace", flags.stop_grace,
            "The same after a request to stop: time to save (120)");
  add.value("--shutdown-timeout", flags.shutdown_timeout,
            "--grace and --stop-grace at once, as in torchrun");
  add.value("--freeze-timeout", flags.freeze_timeout,
            "Seconds until a stopped or frozen rank is ended; 0: never (10 for ranks of lockstep "
            "train, else 0)");
  add.value("--signals-to-handle", flags.signals,
            "More signals: SIGQUIT asks to stop, others are passed on (SIGUSR1 always is)");
  add.value("--monitor-interval", flags.monitor_interval,
            "Accepted as in torchrun; the end of a rank is seen at once");
  add.value("--event-log-handler", flags.event_log_handler, "Only null: there are no event logs");
}

void add_output(Adder add, RunFlags& flags) {
  LaunchSpec& spec = flags.spec;
  add.value("--log-dir", spec.log_dir,
            "Folder for the ranks' output: RUN_ID_…/attempt_N/LOCAL_RANK/stdout.log, stderr.log");
  add.value("-r,--redirects", flags.redirects,
            "Streams off the screen, into files: 0 none, 1 output, 2 errors, 3 both; or per local "
            "rank: 0:1,1:3");
  add.value("-t,--tee", flags.tee, "Streams to the screen although --redirects names them");
  add.value("--local-ranks-filter", flags.local_ranks, "Show only these local ranks: 0,1");
  add.value("--duplicate-stdout-filters", flags.output_filters,
            "Copy lines of output with one of these words to filtered_stdout.log: apple,orange");
  add.value("--duplicate-stderr-filters", flags.error_filters,
            "The same for standard error and filtered_stderr.log");
  add.flag("--rank0", flags.show_rank0,
           "Show rank 0 as it is, and of the others only standard error");
  add.value("--logs-specs", flags.logs_specs, "Only default: others are plug-ins of Python");
}

void add_program(Adder add, RunFlags& flags) {
  add.value("--role", flags.spec.role, "ROLE_NAME of the ranks");
  add.value("--start-method", flags.start_method, "Accepted as in torchrun; ranks are programs");
  add.flag("--no-python", flags.no_python, "PROGRAM is a program even if its name ends in .py");
  add.flag("--run-path", flags.run_path, "PROGRAM is a Python script, whatever --no-python says");
  add.flag("-m,--module", flags.module, "PROGRAM is a Python module");
  add.flag("--use-env", flags.use_env, "Accepted: ranks always find their place in LOCAL_RANK");
  add.flag("--virtual-local-rank", flags.spec.virtual_local_rank,
           "LOCAL_RANK=0 for every rank, which sees only its own device");
  add.value("--numa-binding", flags.numa_binding, "Refused: see docs/launcher.md");
}

}  // namespace

std::string nearest_option(const std::string& name, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const auto& candidate : known) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

std::vector<std::string> option_names(const CLI::App& run) {
  std::vector<std::string> names;
  for (const CLI::Option* option : run.get_options()) {
    for (const auto& name : option->get_lnames()) names.push_back("--" + name);
    for (const auto& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

std::vector<std::string> given_options(const CLI::App& run, const std::set<std::string>& without) {
  std::vector<std::string> words;
  for (const CLI::Option* option : run.get_options()) {
    if (option->count() == 0 || option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    if (without.count(name) != 0) continue;
    if (option->get_items_expected_max() == 0) {
      if (option->as<bool>()) words.push_back("--" + name);
    } else {
      words.push_back("--" + name + "=" + option->results().back());
    }
  }
  return words;
}

void complete_options(const CLI::App& run, std::vector<std::string>& words, size_t first) {
  for (size_t i = first; i < words.size(); ++i) {
    std::string& word = words[i];
    if (!word.starts_with('-') || word == "--") return;
    const std::string name = word.substr(0, word.find('='));
    const CLI::Option* option = run.get_option_no_throw(name);
    if (!option && name.starts_with("--") && name.size() > 2) {
      std::set<const CLI::Option*> fitting;
      for (const std::string& known : option_names(run))
        if (known.starts_with(name)) fitting.insert(run.get_option_no_throw(known));
      if (fitting.size() != 1) continue;
      option = *fitting.begin();
      word = "--" + option->get_lnames().front() + word.substr(name.size());
    }
    const bool has_value = word.find('=') != std::string::npos;
    if (option && !has_value && option->get_items_expected_max() > 0) ++i;
  }
}

void add_run_flags(CLI::App& run, RunFlags& flags) {
  const Adder add(run);
  add_places(add, flags);
  add_hosts(run, flags);
  add_ends(add, flags);
  add_output(add, flags);
  add_program(add, flags);
  run.add_option("PROGRAM", flags.command, "The program and its arguments")
      ->required()
      ->expected(1, 1 << 20);
}

}  // namespace lockstep::cli
