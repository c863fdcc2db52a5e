#include "comm/text.h"

#include <algorithm>

#include "comm/peer_failure.h"
#include "core/base/error.h"

namespace lockstep::comm {
namespace {

Tensor bytes_of(const std::string& text, int64_t length) {
  std::vector<uint8_t> bytes(text.begin(), text.end());
  bytes.resize(static_cast<size_t>(length));
  return Tensor::from(bytes, {length});
}

// The first letter of what ranks tell each other.
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

}  // namespace

std::vector<std::string> all_gather_text(ProcessGroup& group, const std::string& text) {
  if (group.size() == 1) return {text};
  // The lengths first, then the texts padded to the longest: two collectives whose arguments agree on every rank.
  const Tensor lengths = Tensor::empty({group.size()}, DType::i64);
  group.all_gather(lengths, Tensor::full({1}, static_cast<double>(text.size()), DType::i64)).wait();
  const auto sizes = lengths.to_vector<int64_t>();
  const int64_t longest = *std::max_element(sizes.begin(), sizes.end());
  const Tensor padded = Tensor::empty({group.size() * longest}, DType::u8);
  group.all_gather(padded, bytes_of(text, longest)).wait();
  const auto bytes = padded.to_vector<uint8_t>();
  std::vector<std::string> texts;
  for (int64_t r = 0; r < group.size(); ++r)
    texts.emplace_back(bytes.begin() + r * longest, bytes.begin() + r * longest + sizes[static_cast<size_t>(r)]);
  return texts;
}

std::string broadcast_text(ProcessGroup& group, const std::string& text, int root) {
  if (group.size() == 1) return text;
  const Tensor length = Tensor::full({1}, static_cast<double>(text.size()), DType::i64);
  group.broadcast(length, root).wait();
  const auto size = static_cast<int64_t>(length.item());
  const Tensor bytes = bytes_of(group.rank() == root ? text : std::string(), size);
  group.broadcast(bytes, root).wait();
  const auto values = bytes.to_vector<uint8_t>();
  return {values.begin(), values.end()};
}

std::vector<std::string> agree(ProcessGroup* group, const std::function<std::string()>& local) {
  const std::string mine = outcome(local);
  auto texts = group ? all_gather_text(*group, mine) : std::vector<std::string>{mine};
  std::string failures;
  bool only_usage = true;
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    const char kind = texts[rank].empty() ? kEnvironment : texts[rank][0];
    if (kind != kFine) {
      failures += str(failures.empty() ? "" : "; ", "rank ", rank, ": ", texts[rank].substr(std::min<size_t>(1, texts[rank].size())));
      only_usage = only_usage && kind == kUsage;
    }
    texts[rank].erase(0, 1);
  }
  if (failures.empty()) return texts;
  const bool by_peer = mine[0] == kFine;
  std::rethrow_exception(only_usage ? reworded(UsageError(""), failures, by_peer) : reworded(EnvironmentError(""), failures, by_peer));
}

}  // namespace lockstep::comm
