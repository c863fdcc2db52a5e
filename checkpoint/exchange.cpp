#include "checkpoint/exchange.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"

namespace lockstep::checkpoint {
namespace {

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

std::vector<std::string> exchange_texts(comm::ProcessGroup* group, const std::string& text) {
  if (!group || group->size() == 1) return {text};
  const int64_t ranks = group->size();
  const Tensor sizes = Tensor::empty({ranks}, DType::i64);
  const Tensor own_size = Tensor::from(std::vector<int64_t>{static_cast<int64_t>(text.size())}, {1});
  group->all_gather(sizes, own_size).wait();
  const auto all_sizes = sizes.to_vector<int64_t>();
  const int64_t longest = std::max<int64_t>(1, *std::max_element(all_sizes.begin(), all_sizes.end()));
  const Tensor own = Tensor::zeros({longest}, DType::u8);
  std::memcpy(own.raw(), text.data(), text.size());
  const Tensor all = Tensor::empty({ranks * longest}, DType::u8);
  group->all_gather(all, own).wait();
  std::vector<std::string> texts;
  for (int64_t rank = 0; rank < ranks; ++rank)
    texts.emplace_back(static_cast<const char*>(all.raw()) + rank * longest, static_cast<size_t>(all_sizes[static_cast<size_t>(rank)]));
  return texts;
}

std::vector<std::string> agree(comm::ProcessGroup* group, const std::function<std::string()>& local) {
  auto texts = exchange_texts(group, outcome(local));
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
  if (only_usage) throw UsageError(failures);
  throw EnvironmentError(failures);
}

}  // namespace lockstep::checkpoint
