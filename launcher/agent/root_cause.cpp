#include "launcher/agent/root_cause.h"

#include <tuple>

#include <nlohmann/json.hpp>
#include <signal.h>

namespace lockstep::launcher {
namespace {

constexpr size_t kLongestMessage = 2000;

std::string text_of(const nlohmann::json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The first and, where there are more, the last line: Python's messages end with what matters.
std::string shorten(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  if (text.size() > kLongestMessage) text = text.substr(0, kLongestMessage) + "…";
  return text;
}

bool killed_from_outside(const ExitStatus& status) {
  return status.signal != 0 && status.signal != SIGABRT && status.signal != SIGPIPE && status.signal != SIGTERM;
}

}  // namespace

std::optional<FailureReport> parse_failure_report(const std::string& text) {
  if (text.empty()) return std::nullopt;
  FailureReport report;
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.value("saved", nlohmann::json(false)) == true) {
    report.saved = true;
  } else if (json.is_object() && json.contains("message")) {
    const auto& message = json["message"];
    // torchelastic: {"message": {"message": …, "extraInfo": {…}}}
    report.message = message.is_object() && message.contains("message") ? text_of(message["message"]) : text_of(message);
    if (const auto peer = json.find("caused_by_peer"); peer != json.end() && peer->is_boolean()) report.caused_by_peer = peer->get<bool>();
    if (const auto at = json.find("monotonic_ns"); at != json.end() && at->is_number_integer()) report.at = Duration(at->get<int64_t>());
  } else {
    report.message = text;
  }
  report.message = shorten(std::move(report.message));
  return report;
}

bool has_saved(const RankEnd& end) {
  return end.status.signal == 0 && end.status.exit_code == kSavedCode && end.report && end.report->saved;
}

bool is_failure(const RankEnd& end) {
  if (end.status.signal == 0) return end.status.exit_code != 0 && !has_saved(end);
  return !(end.after_signal && (end.status.signal == SIGTERM || end.status.signal == SIGKILL));
}

bool reported_before(const RankEnd& end, std::optional<Duration> time) {
  return end.report && end.report->at && time && *end.report->at < *time;
}

std::optional<size_t> first_failure(const std::vector<RankEnd>& ends, std::optional<Duration> signalled_at) {
  enum Blame { own, own_told_late, of_a_peer, ended_by_us };
  using Key = std::tuple<Blame, Duration, size_t>;
  std::optional<Key> best;
  for (size_t i = 0; i < ends.size(); ++i) {
    const RankEnd& end = ends[i];
    const bool in_time = reported_before(end, signalled_at);
    if (!is_failure(end) && !(in_time && end.status.exit_code + end.status.signal != 0)) continue;
    Duration at = killed_from_outside(end.status) ? end.alive_at : end.seen_at;
    if (end.report && end.report->at) at = std::min(at, *end.report->at);
    const bool blames_peer = end.report && end.report->caused_by_peer;
    const bool too_late = end.after_signal && !in_time;
    const Blame blame = too_late ? (end.report && !blames_peer ? own_told_late : ended_by_us) : (blames_peer ? of_a_peer : own);
    const Key key{blame, at, i};
    if (!best || key < *best) best = key;
  }
  if (!best) return std::nullopt;
  return std::get<2>(*best);
}

}  // namespace lockstep::launcher
