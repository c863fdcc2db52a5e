#include "comm/text.h"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "comm/peer_failure.h"
#include "comm/ranks_text.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {

Tensor bytes_of(const std::string& text, int64_t length) {
  std::vector<uint8_t> bytes(text.begin(), text.end());
  bytes.resize(static_cast<size_t>(length));
  return Tensor::from(bytes, {length});
}

// The first letter of each rank's text tells the outcome.
constexpr char kFine = '+';
constexpr char kUsage = 'U';
constexpr char kEnvironment = 'E';

std::string outcome(const std::function<std::string()>& local) {
  try {
    return kFine + local();
  } catch (const UsageError& e) {
    return kUsage + std::string(e.what());
  } catch (const std::exception& e) {
    return kEnvironment + std::string(e.what());
  }
}

std::string first_line(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

// The first line in which two texts differ, as each of them has it.
std::pair<std::string, std::string> first_difference(std::string_view mine,
                                                     std::string_view theirs) {
  while (!mine.empty() && !theirs.empty()) {
    const std::string a = first_line(mine), b = first_line(theirs);
    if (a != b) return {a, b};
    mine.remove_prefix(std::min(mine.size(), a.size() + 1));
    theirs.remove_prefix(std::min(theirs.size(), b.size() + 1));
  }
  return {mine.empty() ? "nothing more" : first_line(mine),
          theirs.empty() ? "nothing more" : first_line(theirs)};
}

}  // namespace

std::vector<std::string> all_gather_text(ProcessGroup& any, const std::string& text) {
  ProcessGroup& group = any.host();
  if (group.size() == 1) return {text};
  // Gather the lengths first, then the texts padded to the longest. So both collectives have equal
  // arguments on every rank.
  const Tensor lengths = Tensor::empty({group.size()}, DType::i64);
  group.all_gather(lengths, Tensor::full({1}, static_cast<double>(text.size()), DType::i64)).wait();
  const auto sizes = lengths.to_vector<int64_t>();
  const int64_t longest = *std::max_element(sizes.begin(), sizes.end());
  const Tensor padded = Tensor::empty({group.size() * longest}, DType::u8);
  group.all_gather(padded, bytes_of(text, longest)).wait();
  const auto bytes = padded.to_vector<uint8_t>();
  std::vector<std::string> texts;
  for (int64_t r = 0; r < group.size(); ++r)
    texts.emplace_back(bytes.begin() + r * longest,
                       bytes.begin() + r * longest + sizes[static_cast<size_t>(r)]);
  return texts;
}

std::string broadcast_text(ProcessGroup& any, const std::string& text, int root) {
  ProcessGroup& group = any.host();
  if (group.size() == 1) return text;
  const Tensor length = Tensor::full({1}, static_cast<double>(text.size()), DType::i64);
  group.broadcast(length, root).wait();
  const auto size = static_cast<int64_t>(length.item());
  const Tensor bytes = bytes_of(group.rank() == root ? text : std::string(), size);
  group.broadcast(bytes, root).wait();
  const auto values = bytes.to_vector<uint8_t>();
  return {values.begin(), values.end()};
}

bool is_same_text(ProcessGroup& any, std::string_view text) {
  ProcessGroup& group = any.host();
  if (group.size() == 1) return true;
  const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
  const auto low = static_cast<int64_t>(hash.low64), high = static_cast<int64_t>(hash.high64);
  // The minimum of the complements yields the maximum, so one all_reduce finds both.
  const Tensor least = Tensor::from(std::vector<int64_t>{low, high, ~low, ~high}, {4});
  group.all_reduce(least, {.op = ReduceOp::min}).wait();
  const int64_t* of = least.data<int64_t>();
  return of[0] == ~of[2] && of[1] == ~of[3];
}

std::vector<std::string> agree(ProcessGroup* group, const std::function<std::string()>& local) {
  const std::string mine = outcome(local);
  auto texts = !group                       ? std::vector{mine}
               : is_same_text(*group, mine) ? std::vector(static_cast<size_t>(group->size()), mine)
                                            : all_gather_text(*group, mine);
  std::vector<Saying> failures;
  bool only_usage = true;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    const char kind = texts[rank].empty() ? kEnvironment : texts[rank][0];
    if (kind != kFine) {
      failures.push_back(
          {{static_cast<int>(rank)}, texts[rank].substr(std::min<size_t>(1, texts[rank].size()))});
      only_usage = only_usage && kind == kUsage;
    }
    texts[rank].erase(0, 1);
  }
  if (failures.empty()) return texts;
  const bool by_peer = mine[0] == kFine;
  const std::string message = sayings_text(failures, static_cast<int>(texts.size()));
  std::rethrow_exception(only_usage ? reworded(UsageError(""), message, by_peer)
                                    : reworded(EnvironmentError(""), message, by_peer));
}

void check_same_lines(ProcessGroup& group, const std::string& text, std::string_view problem,
                      std::string_view advice) {
  if (is_same_text(group, text)) return;
  const std::string at_zero = broadcast_text(group, text, 0);
  const Tensor other = Tensor::full({1}, text == at_zero ? group.size() : group.rank(), DType::i32);
  group.host().all_reduce(other, {.op = ReduceOp::min}).wait();
  const int rank = static_cast<int>(other.item());  // the first rank that differs
  const auto [zero, different] = first_difference(at_zero, broadcast_text(group, text, rank));
  throw UsageError(str(problem, ": rank 0 has '", zero, "' where rank ", rank, " has '", different,
                       "'; ", advice));
}

}  // namespace lockstep::comm
