#include "cli/run.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <numeric>

#include <CLI/App.hpp>
#include <CLI/CLI.hpp>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/number_text.h"
#include "launcher/rank/rank_env.h"
#include "launcher/rendezvous/endpoint.h"

namespace lockstep::cli {
namespace {

using launcher::LaunchSpec;

// The flags as given. Empty or negative means not given.
struct RunFlags {
  std::string nproc = "1";
  std::string nodes = "1";
  std::string redirects = "0";
  std::string tee = "3";
  std::string local_ranks;
  std::string rdzv_backend;
  std::string rdzv_conf;
  std::string monitor_interval;
  std::string start_method;
  bool standalone = false;
  bool no_python = false;
  bool module = false;
  bool show_rank0 = false;
  double grace = 5;
  double stop_grace = 120;
  double join_timeout = 300;
  LaunchSpec spec;
  std::vector<std::string> command;
};

int to_int(const std::string& text, const char* what) {
  const auto value = parse_number<int>(text);
  check(value.has_value(), "[run] ", what, " must be a number, got '", text, "'");
  return *value;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(at, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

int visible_gpus() {
  if (const char* list = std::getenv("CUDA_VISIBLE_DEVICES"))
    return *list ? static_cast<int>(split(list, ',').size()) : 0;
  int count = 0;
  while (std::filesystem::exists("/dev/nvidia" + std::to_string(count))) ++count;
  return count;
}

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

// torchrun accepts both "--node-rank" and "--node_rank".
std::string both_spellings(const std::string& names) {
  std::string out = names;
  for (const auto& name : split(names, ',')) {
    std::string underscored = name;
    std::replace(underscored.begin() + std::min<std::ptrdiff_t>(2, std::ssize(underscored)),
                 underscored.end(), '-', '_');
    if (underscored != name) out += "," + underscored;
  }
  return out;
}

// Parses "join_timeout=600,lease=10". Ignores keys of other launchers for settings that we do not
// have.
void apply_rdzv_conf(const std::string& text, RunFlags& flags) {
  if (text.empty()) return;
  for (const auto& entry : split(text, ',')) {
    const size_t equals = entry.find('=');
    check(equals != std::string::npos, "[run] --rdzv-conf: expected key=value, got '", entry, "'");
    const std::string key = entry.substr(0, equals);
    const std::string value = entry.substr(equals + 1);
    if (key == "join_timeout" || key == "timeout") {
      flags.join_timeout = to_int(value, "--rdzv-conf join_timeout");
    } else if (key == "lease") {
      flags.spec.lease = std::chrono::seconds(to_int(value, "--rdzv-conf lease"));
    } else {
      log::warn("[run] --rdzv-conf ", key, " has no meaning here");
    }
  }
}

// Runs a Python file as torchrun would. Anything else is a program.
std::vector<std::string> full_command(const RunFlags& flags) {
  std::vector<std::string> argv = flags.command;
  check(!argv.empty(), "[run] expected a program: lockstep run [OPTIONS] -- PROGRAM [ARG]...");
  if (flags.module) {
    argv.insert(argv.begin(), {"python3", "-u", "-m"});
  } else if (!flags.no_python && argv.front().ends_with(".py") &&
             ::access(argv.front().c_str(), X_OK) != 0) {
    argv.insert(argv.begin(), {"python3", "-u"});
  }
  return argv;
}

std::chrono::milliseconds to_ms(double s, const char* what) {
  check(s >= 0 && s < 1e8, "[run] ", what, " must be a number of seconds, got ", s);
  return std::chrono::milliseconds(static_cast<int64_t>(s * 1000));
}

// torchrun's static rendezvous: only the master's address is known. Rank 0 uses its port, so ours
// is the next one.
std::string static_endpoint(const LaunchSpec& spec) {
  const int port = (spec.master_port != 0 ? spec.master_port : 29500) + 1;
  check(port >= 1 && port <= 65535, "[run] --master-port ", spec.master_port,
        ": the rendezvous is at the port after it, so that at most 65534 is possible; or give "
        "--rdzv-endpoint");
  return launcher::Endpoint{spec.master_addr, port}.text();
}

// A run id that other users of the same host or address cannot have by chance. Otherwise agents of
// two jobs would join one job.
std::string shared_run_id(int nodes) {
  const std::string job = launcher::launcher_job();
  check(!job.empty(), "[run] --nnodes ", nodes,
        " needs --rdzv-id NAME: equal on all hosts of this run, and used by no other run");
  return job;
}

LaunchSpec make_spec(RunFlags& flags) {
  apply_rdzv_conf(flags.rdzv_conf, flags);
  LaunchSpec& spec = flags.spec;
  if (!spec.master_addr.empty())
    spec.master_addr = launcher::bare_host(spec.master_addr, "--master-addr");
  spec.argv = full_command(flags);
  spec.nproc = parse_nproc(flags.nproc);
  spec.nodes = parse_nodes(flags.nodes);
  spec.hidden_streams = parse_streams(flags.redirects, spec.nproc);
  // Only checks the form: output goes to screen and log anyway.
  parse_streams(flags.tee, spec.nproc);
  if (!flags.local_ranks.empty())
    for (const auto& part : split(flags.local_ranks, ','))
      spec.shown_local_ranks.push_back(to_int(part, "--local-ranks-filter"));
  if (flags.show_rank0) spec.screen = launcher::Screen::rank0;
  spec.grace = to_ms(flags.grace, "--grace");
  spec.stop_grace = to_ms(flags.stop_grace, "--stop-grace");
  spec.join_timeout = to_ms(flags.join_timeout, "--join-timeout");
  if (flags.standalone) {
    check(spec.nodes == 1, "[run] --standalone is for one node, got --nnodes ", spec.nodes);
    spec.endpoint.clear();
  } else if (spec.endpoint.empty() && spec.nodes > 1 && !spec.master_addr.empty()) {
    spec.endpoint = static_endpoint(spec);
  }
  if (spec.nodes > 1 && spec.run_id.empty()) spec.run_id = shared_run_id(spec.nodes);
  return spec;
}

void refuse_unknown(const CLI::App& run, const std::vector<std::string>& extras) {
  for (const auto& extra : extras) {
    if (!extra.starts_with('-') || extra == "--") continue;
    std::vector<std::string> known;
    for (const CLI::Option* option : run.get_options()) {
      for (const auto& name : option->get_lnames()) known.push_back("--" + name);
      for (const auto& name : option->get_snames()) known.push_back("-" + name);
    }
    const std::string flag = extra.substr(0, extra.find('='));
    const std::string near = nearest_option(flag, known);
    throw UsageError(str("[run] unknown option '", flag, "'",
                         near.empty() ? "" : "; did you mean " + near + "?",
                         " (options of the program come after its name)"));
  }
}

void add_options(CLI::App& run, RunFlags& flags) {
  LaunchSpec& spec = flags.spec;
  const auto add = [&](const std::string& names, auto& variable, const std::string& help) {
    std::string variable_name = names.substr(names.rfind("--") + 2);
    std::transform(variable_name.begin(), variable_name.end(), variable_name.begin(),
                   [](char c) { return c == '-' ? '_' : std::toupper(c); });
    return run.add_option(both_spellings(names), variable, help)->envname("PET_" + variable_name);
  };
  const auto flag = [&](const std::string& names, bool& variable, const std::string& help) {
    return run.add_flag(both_spellings(names), variable, help);
  };
  add("-n,--np,--nproc-per-node", flags.nproc,
      "Ranks on this host: a number, auto, cpu or gpu (1)");
  add("--nnodes", flags.nodes, "Hosts that take part; each runs this command (1)");
  add("--node-rank", spec.node_rank, "This host's place among them (in order of arrival)");
  add("--rdzv-endpoint", spec.endpoint,
      "host:port where node 0 serves the rendezvous (port 29400)");
  add("--rdzv-id", spec.run_id,
      "Name of the run, equal on all hosts; must be given for several, unless srun starts the "
      "agents");
  add("--rdzv-backend", flags.rdzv_backend, "Accepted as in torchrun; there is only one");
  add("--rdzv-conf", flags.rdzv_conf, "join_timeout=SECONDS,lease=SECONDS");
  flag("--standalone", flags.standalone, "One host and a free port, whatever --rdzv-endpoint says");
  add("--master-addr", spec.master_addr, "MASTER_ADDR of the ranks (the host of rank 0)");
  add("--master-port", spec.master_port, "MASTER_PORT of the ranks (a free one)");
  add("--max-restarts", spec.max_restarts,
      "Restart all ranks at most this many times after a failure (0)");
  add("--log-dir", spec.log_dir, "Folder for rank-N.log of every rank");
  add("-r,--redirects", flags.redirects,
      "Streams off the screen: 0 none, 1 output, 2 errors, 3 both; or per rank: 0:1,1:3");
  add("-t,--tee", flags.tee, "Accepted as in torchrun; screen and log get everything");
  add("--local-ranks-filter", flags.local_ranks, "Show only these local ranks: 0,1");
  flag("--rank0", flags.show_rank0, "Show rank 0 as it is, and of the others only standard error");
  add("--role", spec.role, "ROLE_NAME of the ranks");
  add("--grace", flags.grace, "Seconds from SIGTERM to SIGKILL after a failure (5)");
  add("--stop-grace", flags.stop_grace, "The same after a request to stop: time to save (120)");
  add("--join-timeout", flags.join_timeout, "Seconds until all hosts must be there (300)");
  add("--monitor-interval", flags.monitor_interval,
      "Accepted as in torchrun; the end of a rank is seen at once");
  add("--start-method", flags.start_method, "Accepted as in torchrun; ranks are programs");
  flag("--no-python", flags.no_python, "PROGRAM is a program even if its name ends in .py");
  flag("-m,--module", flags.module, "PROGRAM is a Python module");
  run.add_option("PROGRAM", flags.command, "The program and its arguments")
      ->required()
      ->expected(1, 1 << 20);
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

std::vector<int> parse_streams(const std::string& text, int nproc) {
  const auto value = [&](const std::string& part) {
    const int mask = to_int(part, "a stream setting");
    check(mask >= 0 && mask <= 3,
          "[run] a stream setting is 0 (none), 1 (output), 2 (errors) or 3 (both), got ", mask);
    return mask;
  };
  if (text.find(':') == std::string::npos)
    return std::vector<int>(static_cast<size_t>(nproc), value(text));
  std::vector<int> masks(static_cast<size_t>(nproc), 0);
  for (const auto& part : split(text, ',')) {
    const size_t colon = part.find(':');
    check(colon != std::string::npos, "[run] expected RANK:STREAMS, got '", part, "'");
    const int rank = to_int(part.substr(0, colon), "a local rank");
    check(rank >= 0 && rank < nproc, "[run] local rank ", rank, " does not exist among ", nproc);
    masks[static_cast<size_t>(rank)] = value(part.substr(colon + 1));
  }
  return masks;
}

int parse_nodes(const std::string& text) {
  const std::vector<std::string> parts = split(text, ':');
  check(parts.size() <= 2, "[run] --nnodes: expected N or MIN:MAX, got '", text, "'");
  const int nodes = to_int(parts.front(), "--nnodes");
  check(parts.size() == 1 || to_int(parts.back(), "--nnodes") == nodes, "[run] --nnodes ", text,
        ": the number of nodes cannot change during a run; give one number");
  check(nodes >= 1, "[run] --nnodes must be at least 1, got ", nodes);
  return nodes;
}

int parse_nproc(const std::string& text) {
  if (text == "auto") return visible_gpus() > 0 ? visible_gpus() : launcher::threads_per_rank(1);
  if (text == "cpu") return launcher::threads_per_rank(1);
  if (text == "gpu") {
    check(visible_gpus() > 0, "[run] --nproc-per-node gpu: no NVIDIA device is visible");
    return visible_gpus();
  }
  const int nproc = to_int(text, "--nproc-per-node");
  check(nproc >= 1, "[run] --nproc-per-node must be at least 1, got ", nproc);
  return nproc;
}

void add_run_command(CLI::App& app, int& exit_code) {
  CLI::App* run = app.add_subcommand(
      "run", "start any program on the ranks of one or many hosts (torchrun's options)");
  auto flags = std::make_shared<RunFlags>();
  add_options(*run, *flags);
  run->footer("Everything after PROGRAM belongs to it; '--' before it is allowed.");
  run->positionals_at_end();
  run->allow_extras();  // so that the message can name a similar option
  run->callback([run, flags, &exit_code] {
    refuse_unknown(*run, run->remaining());
    const LaunchSpec spec = make_spec(*flags);
    exit_code = hand_stop_signals_to([&] { return launcher::launch(spec).exit_code; });
  });
}

}  // namespace lockstep::cli
