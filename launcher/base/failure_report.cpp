#include "launcher/base/failure_report.h"

#include <nlohmann/json.hpp>

namespace lockstep::launcher {
namespace {

constexpr size_t kLongestMessage = 2000;

std::string text_of(const nlohmann::json& value) {
  return value.is_string() ? value.get<std::string>()
                           : value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// Keeps the first and the last line: the last line of a Python message tells the error.
std::string shorten(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  if (text.size() > kLongestMessage) text = text.substr(0, kLongestMessage) + "…";
  return text;
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
    report.message = message.is_object() && message.contains("message")
                         ? text_of(message["message"])
                         : text_of(message);
    if (const auto peer = json.find("caused_by_peer"); peer != json.end() && peer->is_boolean())
      report.caused_by_peer = peer->get<bool>();
    if (const auto at = json.find("monotonic_ns"); at != json.end() && at->is_number_integer())
      report.at = Duration(at->get<int64_t>());
  } else {
    report.message = text;
  }
  report.message = shorten(std::move(report.message));
  return report;
}

}  // namespace lockstep::launcher
