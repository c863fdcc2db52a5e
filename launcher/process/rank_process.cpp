#include "launcher/process/rank_process.h"

#include <cerrno>
#include <utility>

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "core/base/error.h"
#include "launcher/process/session.h"

namespace lockstep::launcher {
namespace {

constexpr size_t kLongestReport = 64 << 10;
constexpr size_t kChunk = 64 << 10;
constexpr int kUnkillableMs = 5000;  // from SIGKILL to the end of a rank, in the destructor

}  // namespace

RankProcess::RankProcess(int rank, RankOutput::Options output, Guardian& guardian)
    : rank_(rank), output_(std::move(output)), guardian_(guardian) {}

RankProcess::~RankProcess() {
  if (running()) {
    signal_session(child_.pid, SIGKILL);
    pollfd ended{child_.pid_fd, POLLIN, 0};
    if (::poll(&ended, 1, kUnkillableMs) > 0) {
      guardian_.forget(child_.pid);
      reap(child_);
    } else {
      give_up();
    }
  }
  close_output();
}

void RankProcess::start(const ChildSpec& spec) {
  ChildSpec announced = spec;
  announced.announce_fd = guardian_.announce_fd();
  child_ = launcher::start(announced);
}

void RankProcess::signal(int signal) {
  if (!running()) return;
  if (signal == SIGKILL) {
    signal_session(child_.pid, SIGKILL);
  } else {
    ::kill(-child_.pid, signal);
  }
}

void RankProcess::read(Stream stream) {
  int& fd = stream == Stream::output ? child_.output_fd : child_.error_fd;
  char buffer[kChunk];
  const ssize_t got = ::read(fd, buffer, sizeof buffer);
  if (got > 0) return output_.feed(stream, {buffer, static_cast<size_t>(got)});
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  ::close(std::exchange(fd, -1));
  output_.finish(stream);
}

void RankProcess::close_output() {
  for (const Stream stream : {Stream::output, Stream::error}) {
    int& fd = stream == Stream::output ? child_.output_fd : child_.error_fd;
    if (fd < 0) continue;
    ::close(std::exchange(fd, -1));
    output_.finish(stream);
  }
}

RankEnd& RankProcess::collect() {
  RankEnd end;
  end.rank = rank_;
  end.status = peek_status(child_);
  const std::string report = error_file_.contents(kLongestReport);
  end.report = parse_failure_report(report);
  if (end.report && !end.report->saved) output_.keep_report(report);
  end_ = std::move(end);
  // The dead leader still holds the number, so this cannot hit another session.
  signal_session(child_.pid, SIGKILL);
  end_strays();
  guardian_.forget(child_.pid);
  reap(child_);
  return *end_;
}

// What the rank started in sessions of their own.
void RankProcess::end_strays() const {
  const std::string exact = str("LOCKSTEP_ERROR_FILE=", error_path());
  signal_marked(exact.c_str(), SIGKILL, /*whole=*/true);  // /fd/17 is not /fd/170
}

// Does not reap the rank or tell the guardian, which tries again when the agent ends.
RankEnd& RankProcess::give_up() {
  RankEnd end;
  end.rank = rank_;
  end.status.signal = SIGKILL;
  end.unkillable = true;
  end.report = parse_failure_report(error_file_.contents(kLongestReport));
  end_ = std::move(end);
  ::close(std::exchange(child_.pid_fd, -1));
  return *end_;
}

}  // namespace lockstep::launcher
