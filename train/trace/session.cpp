#include "train/trace/session.h"

#include <unistd.h>

#include "comm/ranks_text.h"
#include "comm/text.h"
#include "core/base/log.h"
#include "core/base/number_text.h"
#include "train/trace/merge.h"

namespace lockstep::train {
namespace {

constexpr trace::Kind kWrite{"trace", "write the timeline"};

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "?";
}

std::string process_text(int rank) {
  return str("rank ", rank, " on host ", host_name(), " (pid ", ::getpid(), ")");
}

}  // namespace

TraceSession::TraceSession(const TraceOptions& options, comm::ProcessGroup& group)
    : options_(options), group_(group) {
  const int rank = group.rank();
  comm::agree(&group, [&] {
    if (rank == 0 && !options_.restarted) remove_parts(options_.file);
    return std::string();
  });
  clock_ = measure_clock(group);
  const auto problems = comm::agree(&group, [&] {
    try {
      part_ = std::make_unique<PartFile>(
          PartOptions{.path = part_path(options_.file, rank),
                      .rank = rank,
                      .process = process_text(rank),
                      .shift_ns = clock_.shift_ns,
                      .limit_bytes = options_.limit_mb * 1'000'000 / group.size(),
                      .append = options_.restarted});
    } catch (const EnvironmentError& e) {
      return std::string(e.what());
    }
    return std::string();
  });
  // A user sees the log of rank 0.
  for (size_t r = 0; rank == 0 && r < problems.size(); ++r)
    if (!problems[r].empty()) log::warn("[trace] rank ", r, " records no timeline: ", problems[r]);
  if (!part_) return;
  part_->note("clock",
              str("{\"shift_ns\":", clock_.shift_ns, ",\"within_ns\":", clock_.within_ns, "}"));
  trace::name_thread("main");
  trace::start(*part_);
}

TraceSession::~TraceSession() {
  if (part_) trace::stop();
}

void TraceSession::stepped() {
  if (!part_) return;
  {
    const trace::Span span(kWrite);
    trace::drain();
  }
  if (part_->ended().empty() || told_) return;
  told_ = true;
  trace::stop();
  log::warn("[trace] ", part_->ended());
}

std::string TraceSession::finish() {
  stepped();
  if (part_) {
    trace::stop();
    part_->note("clock at the end", [&] {
      const ClockShift now = measure_clock(group_);
      return str("{\"shift_ns\":", now.shift_ns, ",\"within_ns\":", now.within_ns, "}");
    }());
  } else {
    measure_clock(group_);
  }
  const bool recorded = part_ != nullptr;
  const std::string ended = recorded ? part_->ended() : "";
  part_.reset();
  const auto hosts = comm::agree(&group_, [&] { return recorded ? host_name() : std::string(); });
  const auto ends = comm::agree(&group_, [&] { return ended; });
  if (group_.rank() != 0) return {};
  const Merged merged = merge_parts(options_.file, group_.size());
  std::string text = str("timeline   ", options_.file);
  for (const int rank : merged.missing) {
    const std::string& host = hosts[static_cast<size_t>(rank)];
    text += host.empty() ? str("; rank ", rank, " recorded none")
                         : str("; rank ", rank, "'s is in '", part_path(options_.file, rank),
                               "' on host ", host);
  }
  for (const std::string& end : ends)
    if (!end.empty()) text += "; " + end;
  return text + "\n";
}

}  // namespace lockstep::train
