#include "train/parallel/same_weights.h"

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "comm/peer_failure.h"
#include "comm/ranks_text.h"
#include "comm/text.h"
#include "train/metrics/machine.h"

namespace lockstep::train {
namespace {

int64_t hash(const void* bytes, size_t count) {
  return static_cast<int64_t>(XXH3_64bits(bytes, count));
}

int64_t print_of(const StatePart& part) {
  if (part.shard.length() == 0) return 0;
  const Tensor values = part.values.device() == kCpu ? part.values : part.values.to(kCpu);
  return hash(values.raw(), static_cast<size_t>(values.bytes()));
}

std::vector<int64_t> prints_of(std::span<const StatePart> held) {
  std::vector<int64_t> prints;
  for (const StatePart& part : held) prints.push_back(print_of(part));
  return prints;
}

int64_t layout_of(std::span<const StatePart> held) {
  std::string text;
  for (const StatePart& part : held)
    if (part.shard.length() > 0) text += str(part.name, " ", part.shard, "\n");
  return hash(text.data(), text.size());
}

std::vector<int64_t> all_gather(int64_t mine, comm::ProcessGroup& group) {
  const Tensor all = Tensor::empty({group.size()}, DType::i64);
  group.host().all_gather(all, Tensor::from(std::vector<int64_t>{mine}, {1})).wait();
  return all.to_vector<int64_t>();
}

// Ranks that should hold the same, and do not.
struct Odd {
  std::vector<int> odd;   // ascending
  std::vector<int> most;  // those with the values of most; empty: no value is that of most
};

Odd find_odd(const std::vector<int64_t>& layouts, const std::vector<int64_t>& prints) {
  std::map<int64_t, std::map<int64_t, std::vector<int>>> sets;  // layout, fingerprint
  for (size_t r = 0; r < prints.size(); ++r)
    sets[layouts[r]][prints[r]].push_back(static_cast<int>(r));
  Odd found;
  for (const auto& [layout, by_print] : sets) {
    if (by_print.size() < 2) continue;
    size_t ranks = 0;
    for (const auto& [print, members] : by_print) ranks += members.size();
    for (const auto& [print, members] : by_print) {
      std::vector<int>& side = 2 * members.size() > ranks ? found.most : found.odd;
      side.insert(side.end(), members.begin(), members.end());
    }
    break;  // one set is enough for a report
  }
  std::sort(found.odd.begin(), found.odd.end());
  return found;
}

std::string listed(std::span<const StatePart> held) {
  std::string text;
  const std::vector<int64_t> prints = prints_of(held);
  for (size_t i = 0; i < held.size(); ++i) text += str(prints[i], " ", held[i].name, "\n");
  return text;
}

// The first parameter in which two lists differ.
std::string first_difference(const std::string& a, const std::string& b) {
  std::istringstream lines_a(a), lines_b(b);
  for (std::string x, y; std::getline(lines_a, x) && std::getline(lines_b, y);)
    if (x != y) return x.substr(x.find(' ') + 1);
  return "";
}

}  // namespace

SameWeights::SameWeights(std::span<const StatePart> held, comm::ProcessGroup& group, int64_t step)
    : group_(group), layouts_(all_gather(layout_of(held), group)), equal_at_(step) {
  any_ = std::set<int64_t>(layouts_.begin(), layouts_.end()).size() < layouts_.size();
}

void SameWeights::check(std::span<const StatePart> held, int64_t step) {
  if (!any_) return;
  const std::vector<int64_t> prints = prints_of(held);
  const std::vector<int64_t> all =
      all_gather(hash(prints.data(), prints.size() * sizeof(int64_t)), group_);
  if (!find_odd(layouts_, all).odd.empty()) fail(held, all, step);
  equal_at_ = step;
}

void SameWeights::fail(std::span<const StatePart> held, const std::vector<int64_t>& prints,
                       int64_t step) const {
  const Odd found = find_odd(layouts_, prints);
  const std::vector<int>&odd = found.odd, &most = found.most;
  const std::vector<std::string> lists = comm::all_gather_text(group_, listed(held)),
                                 hosts = comm::all_gather_text(group_, this_host());
  const auto at = [](const std::vector<std::string>& texts, int rank) -> const std::string& {
    return texts[static_cast<size_t>(rank)];
  };
  // Without a majority, any rank that has other weights than the first one.
  const auto other = std::find_if(odd.begin(), odd.end(), [&](int rank) {
    return prints[static_cast<size_t>(rank)] != prints[static_cast<size_t>(odd.front())];
  });
  const int reference = most.empty() && other != odd.end() ? *other
                        : most.empty()                     ? odd.back()
                                                           : most.front();
  const std::string where = first_difference(at(lists, odd.front()), at(lists, reference));
  const std::string who =
      most.empty() ? str(comm::ranks_text(odd),
                         " hold different weights, and it is not known whose are right")
                   : str(comm::ranks_text(odd), odd.size() == 1 ? " (host " : " (first on host ",
                         at(hosts, odd.front()), ") ", odd.size() == 1 ? "holds" : "hold",
                         " other weights than ", comm::ranks_text(most));
  const std::string text =
      str("[train] after step ", step, ", ", who, ": they differ first in '", where,
          "'. After step ", equal_at_,
          " they were equal. A memory or a transfer is faulty there. The wrong weights are not "
          "saved: resume from the last checkpoint (--resume auto), on another host if this comes "
          "again");
  const bool is_odd = std::find(odd.begin(), odd.end(), group_.rank()) != odd.end();
  if (most.empty() || is_odd) throw EnvironmentError(text);
  throw comm::FromPeer<EnvironmentError>(text);
}

}  // namespace lockstep::train
