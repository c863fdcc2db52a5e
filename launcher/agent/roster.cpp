#include "launcher/agent/roster.h"

#include <algorithm>
#include <set>

#include "core/base/error.h"

namespace lockstep::launcher {
namespace {

constexpr auto kFirst = std::chrono::seconds(2);
constexpr auto kAgain = std::chrono::seconds(10);
constexpr size_t kShown = 8;

// "a", "a and b", "a, b and c", "a, b and 7 more".
std::string listed(const std::vector<std::string>& names) {
  const size_t shown = names.size() <= kShown ? names.size() : kShown - 1;
  std::string text;
  for (size_t i = 0; i < shown; ++i) {
    const bool last = i + 1 == names.size();
    text += str(i == 0 ? "" : last ? " and " : ", ", names[i]);
  }
  return shown == names.size() ? text : str(text, " and ", names.size() - shown, " more");
}

}  // namespace

std::string roster_text(const std::vector<Node>& nodes, int expected) {
  std::set<int> places;
  std::vector<std::string> joined, missing;
  for (const Node& node : nodes) {
    places.insert(node.node_rank);
    joined.push_back(node.node_rank < 0 ? node.host
                                        : str("node ", node.node_rank, " on ", node.host));
  }
  std::string text = str(nodes.size(), " of ", expected, " joined");
  if (!joined.empty()) text += ": " + listed(joined);
  for (int place = 0; place < expected; ++place)
    if (places.count(place) == 0) missing.push_back(std::to_string(place));
  if (places.count(-1) == 0 && !missing.empty())
    text += str("; missing: ", missing.size() == 1 ? "node " : "nodes ", listed(missing));
  return text;
}

void Roster::begin(Duration at) { first_ = next_ = at + kFirst; }

std::string Roster::look(const std::vector<Node>& nodes, int expected, Duration at) {
  if (at < first_) return "";
  std::string text = roster_text(nodes, expected);
  if (at < next_ && text == told_) return "";
  next_ = at + kAgain;
  return told_ = std::move(text);
}

}  // namespace lockstep::launcher
