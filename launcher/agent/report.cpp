#include "launcher/agent/report.h"

#include <cstdio>
#include <fstream>

#include <signal.h>

#include "comm/ranks_text.h"
#include "core/base/error.h"
#include "launcher/base/exit_status.h"

namespace lockstep::launcher {
namespace {

std::string end_text(const RankEnd& end, const std::string& known_reason) {
  std::string text;
  if (end.unkillable) {
    text = "does not end, not even by SIGKILL";
  } else if (end.after_signal && end.status.signal == SIGTERM) {
    text = "ended by the launcher";
  } else if (end.after_signal && end.status.signal == SIGKILL) {
    text = "ended by the launcher (SIGKILL, as SIGTERM did not help)";
  } else if (end.status.signal == 0 && end.status.exit_code == 0) {
    text = "done";
  } else {
    text = describe(end.status) +
           (end.after_signal ? ", after the launcher had told it to end" : ", later");
  }
  if (!end.report) return text;
  if (end.report->saved) return text + ", it has saved";
  if (end.report->message == known_reason) return text + ", for the same reason";
  return text + ": " + end.report->message.substr(0, end.report->message.find('\n'));
}

// Keeps a reason of several lines within the box.
std::string indented(std::string text) {
  for (size_t at = 0; (at = text.find('\n', at)) != std::string::npos; ++at)
    text.insert(at + 1, "│ ");
  return text;
}

}  // namespace

std::string failure_box(const Failure& failure, const FailureContext& context) {
  char after[32];
  std::snprintf(after, sizeof after, "%.1f s", context.after_seconds);
  std::string box = "the job failed; first failure:\n┌ " + headline(failure) + ", " + after +
                    " after the start\n";
  if (failure.rank >= 0 && !failure.reason.empty())
    box += "│ reason: " + indented(failure.reason) + "\n";
  if (failure.caused_by_peer)
    box +=
        "│ it names another rank as the cause, but no other rank reported a failure of its own\n";
  if (!failure.last_lines.empty()) {
    box += str("│ last lines of its output",
               context.log_file.empty() ? "" : " (all of it: " + context.log_file + ")", ":\n");
    for (const auto& line : failure.last_lines) box += "│   " + line + "\n";
  } else if (!context.log_file.empty()) {
    box += "│ log: " + context.log_file + " (it wrote nothing)\n";
  }
  for (const auto& other : context.others) box += "│ " + other + "\n";
  if (context.memory_lost)
    box +=
        "│ no rank is started again, because the job was asked to stop: "
        "what the ranks kept in memory on this host is lost\n";
  box += "└";
  return box;
}

std::vector<std::string> other_ends(const std::vector<RankEnd>& ends, const Failure& failure) {
  std::vector<comm::Saying> sayings;
  for (const RankEnd& end : ends)
    if (end.rank != failure.rank) sayings.push_back({{end.rank}, end_text(end, failure.reason)});
  std::vector<std::string> lines;
  for (const auto& [ranks, text] : comm::merge_equal(sayings))
    lines.push_back(str(comm::ranks_text(ranks), ": ", text));
  return lines;
}

std::string signal_hint(int signal, long oom_kills) {
  switch (signal) {
    case SIGKILL:
      if (oom_kills > 0)
        return "the kernel ran out of memory meanwhile and killed a process: most likely this one "
               "(see dmesg)";
      return "somebody sent SIGKILL: kill -9, a scheduler, or the kernel out of memory (see dmesg)";
    case SIGSEGV: return "it touched memory that is not its own";
    case SIGBUS:
      return "it touched a mapping that has no memory behind it: a truncated file, or a full "
             "/dev/shm";
    case SIGILL: return "an instruction that this CPU does not have: built for another machine?";
    case SIGABRT: return "it aborted itself; its last lines may say why";
    case SIGXCPU: return "its CPU time limit was reached (ulimit -t)";
    case SIGXFSZ: return "its file size limit was reached (ulimit -f)";
    default: return "";
  }
}

long oom_kill_count() {
  std::ifstream file("/proc/vmstat");
  std::string name;
  long value = 0;
  while (file >> name >> value)
    if (name == "oom_kill") return value;
  return -1;
}

}  // namespace lockstep::launcher
