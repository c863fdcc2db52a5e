#include "cli/run.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include <CLI/App.hpp>
#include <CLI/CLI.hpp>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/process/stop_signal.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/number_text.h"
#include "launcher/base/host_list.h"
#include "launcher/base/random_id.h"
#include "launcher/base/stop_wish.h"
#include "launcher/process/ssh_hosts.h"
#include "launcher/rank/rank_env.h"
#include "launcher/rendezvous/endpoint.h"
#include "launcher/trust/trust.h"

namespace lockstep::cli {
namespace {

using launcher::LaunchSpec;

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

// A file that the system cannot run by itself.
bool is_script(const std::string& name) {
  if (name.ends_with(".py")) return true;
  std::error_code error;
  return std::filesystem::is_regular_file(name, error) && ::access(name.c_str(), X_OK) != 0;
}

// A script is run by Python, as torchrun would, whether or not it may be executed. Anything else is
// a program.
std::vector<std::string> full_command(const RunFlags& flags) {
  std::vector<std::string> argv = flags.command;
  check(!argv.empty(), "[run] expected a program: lockstep run [OPTIONS] -- PROGRAM [ARG]...");
  check(!flags.module || !flags.no_python,
        "[run] --module and --no-python contradict each other: give one of them");
  const char* named = std::getenv("PYTHON_EXEC");
  const std::string python = named && *named ? named : "python3";
  if (flags.module && !flags.run_path)
    argv.insert(argv.begin(), {python, "-u", "-m"});
  else if (flags.run_path || (!flags.no_python && is_script(argv.front())))
    argv.insert(argv.begin(), {python, "-u"});
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
//
// With torchrun's static rendezvous, the address of rank 0 tells runs apart: only one of them can
// have it, and each node says which one it is.
std::string shared_run_id(const LaunchSpec& spec) {
  std::string job = launcher::launcher_job();
  if (job.empty() && !spec.master_addr.empty() && spec.node_rank >= 0)
    job = str("static ", spec.endpoint);
  check(!job.empty(), "[run] --nnodes ", spec.nodes,
        " needs --rdzv-id NAME: equal on all hosts of this run, and used by no other run");
  return job;
}

// Refuses what can only mean something inside of torchrun's own process.
void check_foreign(const RunFlags& flags) {
  check(flags.logs_specs.empty() || flags.logs_specs == "default", "[run] --logs-specs ",
        flags.logs_specs,
        ": such plug-ins are classes of Python, which this launcher cannot load; leave it out");
  check(flags.event_log_handler.empty() || flags.event_log_handler == "null",
        "[run] --event-log-handler ", flags.event_log_handler,
        ": such handlers are objects of Python, which this launcher cannot load; leave it out. "
        "Ends and restarts are in the log on standard error");
  check(flags.numa_binding.empty(), "[run] --numa-binding ", flags.numa_binding,
        ": ranks are not bound here; run each rank under `numactl --cpunodebind=N --localalloc`, "
        "or use srun's --cpu-bind");
}

void apply_signals(RunFlags& flags) {
  if (flags.signals.empty()) return;
  for (const std::string& name : split(flags.signals, ',')) {
    int number = 0;
    for (int each = 1; each < SIGRTMIN && number == 0; ++each)
      if (const char* known = ::sigabbrev_np(each); known && "SIG" + std::string(known) == name)
        number = each;
    check(number != 0 && number != SIGKILL && number != SIGSTOP && number != SIGCHLD &&
              number != SIGPIPE && number != SIGXFSZ,
          "[run] --signals-to-handle: '", name,
          "' is no signal that can be handled; expected names like SIGTERM,SIGUSR2");
    if (std::find(std::begin(launcher::kStopSignals), std::end(launcher::kStopSignals), number) ==
        std::end(launcher::kStopSignals))
      flags.spec.more_signals.push_back(number);
  }
}

// "apple,orange" → these words; ",," stands for a comma.
std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] != ',') {
      word += text[i];
    } else if (text.compare(i, 2, ",,") == 0) {
      word += text[i++];
    } else if (!word.empty()) {
      words.push_back(std::exchange(word, ""));
    }
  }
  return words;
}

void apply_output(RunFlags& flags) {
  LaunchSpec& spec = flags.spec;
  spec.log_tree = spec.log_dir != "/dev/null";
  if (!spec.log_tree) spec.log_dir.clear();
  spec.hidden_streams = parse_streams(flags.redirects, spec.nproc);
  const std::vector<int> shown = parse_streams(flags.tee, spec.nproc);
  for (size_t i = 0; i < shown.size(); ++i) spec.hidden_streams[i] &= ~shown[i];
  spec.output_filters = words_of(flags.output_filters);
  spec.error_filters = words_of(flags.error_filters);
  if (!flags.local_ranks.empty())
    for (const auto& part : split(flags.local_ranks, ','))
      spec.shown_local_ranks.push_back(to_int(part, "--local-ranks-filter"));
  if (flags.show_rank0) spec.screen = launcher::Screen::rank0;
}

void apply_grace(RunFlags& flags) {
  if (const char* text = std::getenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT");
      flags.shutdown_timeout.empty() && text)
    flags.shutdown_timeout = text;
  const double shutdown =
      flags.shutdown_timeout.empty() ? -1 : to_int(flags.shutdown_timeout, "--shutdown-timeout");
  const auto seconds = [&](double own, double otherwise) {
    return own >= 0 ? own : shutdown >= 0 ? shutdown : otherwise;
  };
  flags.spec.grace = to_ms(seconds(flags.grace, 5), "--grace");
  flags.spec.stop_grace = to_ms(seconds(flags.stop_grace, 120), "--stop-grace");
  flags.spec.join_timeout = to_ms(flags.join_timeout, "--join-timeout");
}

void check_devices(const LaunchSpec& spec) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (!spec.virtual_local_rank || !visible) return;
  check(visible_gpus() >= spec.nproc, "[run] --virtual-local-rank gives each rank a device, but ",
        "CUDA_VISIBLE_DEVICES='", visible, "' has ", visible_gpus(), " for ", spec.nproc, " ranks");
}

// The place of this pod in an indexed Job or JobSet of Kubernetes; -1: none.
int index_of_pod(int nodes) {
  const char* text = std::getenv("JOB_COMPLETION_INDEX");
  if (!text || !*text) return -1;
  const int index = to_int(text, "JOB_COMPLETION_INDEX");
  check(index >= 0 && index < nodes, "[run] JOB_COMPLETION_INDEX is ", index, ", but --nnodes is ",
        nodes, ": they must fit, or give --node-rank");
  return index;
}

// The path of this program, which the other hosts have as well.
std::string own_program() {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::read_symlink("/proc/self/exe", error);
  check(!error, "[run] cannot tell the path of this program: ", error.message());
  return path.string();
}

LaunchSpec make_spec(RunFlags& flags) {
  check_foreign(flags);
  apply_rdzv_conf(flags.rdzv_conf, flags);
  LaunchSpec& spec = flags.spec;
  if (!spec.master_addr.empty())
    spec.master_addr = launcher::bare_host(spec.master_addr, "--master-addr");
  spec.argv = full_command(flags);
  if (flags.nproc.find(':') == std::string::npos) {
    spec.nproc = parse_nproc(flags.nproc);
  } else {
    const Range ranks = parse_range(flags.nproc, "--nproc-per-node");
    spec.nproc = ranks.most;
    spec.min_nproc = ranks.least;
  }
  const Range nodes = parse_range(flags.nodes, "--nnodes");
  spec.nodes = nodes.most;
  if (nodes.least < nodes.most) spec.min_nodes = nodes.least;
  spec.spare_timeout = to_ms(flags.spare_timeout, "--spare-timeout");
  if (flags.freeze_timeout) spec.freeze_timeout = to_ms(*flags.freeze_timeout, "--freeze-timeout");
  apply_output(flags);
  apply_grace(flags);
  apply_signals(flags);
  check_devices(spec);
  if (!spec.local_addr.empty())
    spec.local_addr = launcher::bare_host(spec.local_addr, "--local-addr");
  if (spec.nodes > 1 && spec.node_rank < 0) spec.node_rank = index_of_pod(spec.nodes);
  if (flags.standalone) {
    check(spec.nodes == 1, "[run] --standalone is for one node, got --nnodes ", spec.nodes);
    spec.endpoint.clear();
  } else if (spec.endpoint.empty() && spec.nodes > 1 && !spec.master_addr.empty()) {
    spec.endpoint = static_endpoint(spec);
  }
  if (spec.nodes > 1 && spec.run_id.empty()) spec.run_id = shared_run_id(spec);
  return spec;
}

// What each host runs: this command with its own place. The first host serves the rendezvous.
std::vector<launcher::HostCommand> commands_for_hosts(const CLI::App& run, const RunFlags& flags) {
  const std::vector<std::string> hosts = launcher::expand_hosts(flags.hosts);
  check(flags.nodes == "1" && flags.spec.node_rank < 0 && !flags.standalone,
        "[run] --hosts says which hosts take part: leave --nnodes, --node-rank and --standalone "
        "out");
  const std::vector<std::string> common =
      given_options(run, {"hosts", "ssh", "until-eof", "nnodes", "node-rank"});
  const std::string run_id = flags.spec.run_id.empty() ? launcher::random_id() : "";
  const std::string first = hosts.front().substr(hosts.front().find('@') + 1);
  std::vector<launcher::HostCommand> commands;
  for (size_t i = 0; i < hosts.size(); ++i) {
    launcher::HostCommand command{hosts[i], {own_program(), "run", "--until-eof"}};
    auto& argv = command.argv;
    argv.insert(argv.end(), {str("--nnodes=", hosts.size()), str("--node-rank=", i)});
    if (flags.spec.endpoint.empty()) argv.push_back("--rdzv-endpoint=" + first);
    if (!run_id.empty()) argv.push_back("--rdzv-id=" + run_id);
    argv.insert(argv.end(), common.begin(), common.end());
    if (launcher::trust_from_environment().plaintext && !flags.spec.plaintext)
      argv.push_back("--rdzv-plaintext");
    argv.push_back("--");
    argv.insert(argv.end(), flags.command.begin(), flags.command.end());
    commands.push_back(std::move(command));
  }
  return commands;
}

// The job's token, which this process makes unless its environment has one. Empty with plaintext.
std::string token_for_hosts(const RunFlags& flags) {
  const launcher::Trust trust = launcher::trust_from_environment();
  if (trust.token) return trust.token->text();
  return trust.plaintext || flags.spec.plaintext ? "" : launcher::JobToken::random().text();
}

// What token_for_hosts() has sent. In the environment, launch() finds it and hides it from others.
void take_token() {
  const std::string token = launcher::read_secret();
  if (token.empty()) return;
  ::unsetenv("LOCKSTEP_JOB_TOKEN_FILE");
  ::setenv("LOCKSTEP_JOB_TOKEN", token.c_str(), 1);
}

int run_by_ssh(const CLI::App& run, const RunFlags& flags) {
  const std::vector<launcher::HostCommand> commands = commands_for_hosts(run, flags);
  std::error_code error;
  const std::string folder = std::filesystem::current_path(error).string();
  check(!error, "[run] --hosts: the current folder has no name: ", error.message());
  RunFlags limits = flags;
  apply_grace(limits);
  launcher::SshOptions options{
      .program = flags.ssh, .folder = folder, .secret = token_for_hosts(flags)};
  // The hosts' agents give up their ranks first.
  options.patience = std::max<Duration>(
      options.patience, limits.spec.grace + limits.spec.stop_grace + std::chrono::seconds(20));
  return hand_stop_signals_to([&] { return launcher::run_on_hosts(commands, options); });
}

void refuse_unknown(const CLI::App& run, const std::vector<std::string>& extras) {
  for (const auto& extra : extras) {
    if (!extra.starts_with('-') || extra == "--") continue;
    const std::string flag = extra.substr(0, extra.find('='));
    const std::string near = nearest_option(flag, option_names(run));
    throw UsageError(str("[run] unknown option '", flag, "'",
                         near.empty() ? "" : "; did you mean " + near + "?",
                         " (options of the program come after its name)"));
  }
}

}  // namespace

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

Range parse_range(const std::string& text, const std::string& what) {
  const std::vector<std::string> parts = split(text, ':');
  check(parts.size() <= 2, "[run] ", what, ": expected N or MIN:MAX, got '", text, "'");
  const Range range{to_int(parts.front(), what.c_str()), to_int(parts.back(), what.c_str())};
  check(range.least >= 1, "[run] ", what, " must be at least 1, got ", range.least);
  check(range.least <= range.most, "[run] ", what, " ", text,
        ": the least number comes first, as in 1:", std::max(range.least, range.most));
  return range;
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
  add_run_flags(*run, *flags);
  run->footer("Everything after PROGRAM belongs to it; '--' before it is allowed.");
  run->positionals_at_end();
  run->allow_extras();  // so that the message can name a similar option
  run->callback([run, flags, &exit_code] {
    refuse_unknown(*run, run->remaining());
    if (!flags->hosts.empty()) {
      exit_code = run_by_ssh(*run, *flags);
      return;
    }
    const LaunchSpec spec = make_spec(*flags);
    if (flags->until_eof) {
      take_token();
      launcher::stop_at_end_of_input();
    }
    exit_code = hand_stop_signals_to([&] { return launcher::launch(spec).exit_code; });
  });
}

}  // namespace lockstep::cli
