#include "ddp/same_model.h"

#include <algorithm>
#include <sstream>

namespace lockstep::ddp {
namespace {

// One line an entry; equal texts mean equal models.
std::string describe(const std::vector<Parameter>& parameters, const std::vector<std::pair<std::string, Tensor>>& buffers) {
  std::ostringstream out;
  for (const Parameter& p : parameters) out << "parameter " << p.name() << ' ' << p.data() << (p.requires_grad() ? "" : " frozen") << '\n';
  for (const auto& [name, tensor] : buffers) out << "buffer " << name << ' ' << tensor << '\n';
  return out.str();
}

std::string first_line(std::string_view text) { return std::string(text.substr(0, text.find('\n'))); }

// The first entry in which two descriptions differ, as both of them have it.
std::pair<std::string, std::string> first_difference(std::string_view mine, std::string_view theirs) {
  while (!mine.empty() && !theirs.empty()) {
    const std::string a = first_line(mine), b = first_line(theirs);
    if (a != b) return {a, b};
    mine.remove_prefix(a.size() + 1);
    theirs.remove_prefix(b.size() + 1);
  }
  return {mine.empty() ? "nothing more" : first_line(mine), theirs.empty() ? "nothing more" : first_line(theirs)};
}

std::string text_of(const Tensor& bytes, int64_t offset, int64_t length) {
  const auto all = bytes.to_vector<uint8_t>();
  return {all.begin() + offset, all.begin() + offset + length};
}

}  // namespace

void check_same_model(const std::vector<Parameter>& parameters, const std::vector<std::pair<std::string, Tensor>>& buffers,
                      comm::ProcessGroup& group) {
  const int ranks = group.size();
  if (ranks == 1) return;
  const std::string mine = describe(parameters, buffers);

  // The lengths first, then the texts padded to the longest: two collectives whose arguments agree on every rank.
  const Tensor length = Tensor::full({1}, static_cast<double>(mine.size()), DType::i64);
  const Tensor lengths = Tensor::empty({ranks}, DType::i64);
  group.all_gather(lengths, length).wait();
  const auto sizes = lengths.to_vector<int64_t>();
  const int64_t longest = *std::max_element(sizes.begin(), sizes.end());

  std::vector<uint8_t> padded(mine.begin(), mine.end());
  padded.resize(static_cast<size_t>(longest));
  const Tensor texts = Tensor::empty({ranks * longest}, DType::u8);
  group.all_gather(texts, Tensor::from(padded, {longest})).wait();

  const std::string reference = text_of(texts, 0, sizes[0]);
  for (int r = 1; r < ranks; ++r) {
    const std::string other = text_of(texts, r * longest, sizes[static_cast<size_t>(r)]);
    if (other == reference) continue;
    const auto [at_zero, at_other] = first_difference(reference, other);
    throw UsageError(str("[ddp] the ranks do not hold the same model: rank 0 has '", at_zero, "' where rank ", r, " has '", at_other,
                         "'; build the model from the same configuration on every rank"));
  }
}

void broadcast_model(const std::vector<Parameter>& parameters, const std::vector<std::pair<std::string, Tensor>>& buffers,
                     comm::ProcessGroup& group) {
  if (group.size() == 1) return;
  std::vector<comm::Work> pending;
  for (const Parameter& p : parameters) pending.push_back(group.broadcast(p.data(), 0));
  for (const auto& [name, tensor] : buffers) pending.push_back(group.broadcast(tensor, 0));
  for (const comm::Work& work : pending) work.wait();
}

}  // namespace lockstep::ddp
