#include "comm/text.h"

#include <algorithm>

namespace lockstep::comm {
namespace {

Tensor bytes_of(const std::string& text, int64_t length) {
  std::vector<uint8_t> bytes(text.begin(), text.end());
  bytes.resize(static_cast<size_t>(length));
  return Tensor::from(bytes, {length});
}

}  // namespace

std::vector<std::string> all_gather_text(ProcessGroup& group, const std::string& text) {
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
  const Tensor length = Tensor::full({1}, static_cast<double>(text.size()), DType::i64);
  group.broadcast(length, root).wait();
  const auto size = static_cast<int64_t>(length.item());
  const Tensor bytes = bytes_of(group.rank() == root ? text : std::string(), size);
  group.broadcast(bytes, root).wait();
  const auto values = bytes.to_vector<uint8_t>();
  return {values.begin(), values.end()};
}

}  // namespace lockstep::comm
