#include "ddp/same_model.h"

#include <sstream>

#include "comm/text.h"

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

}  // namespace

void check_same_model(const std::vector<Parameter>& parameters, const std::vector<std::pair<std::string, Tensor>>& buffers,
                      comm::ProcessGroup& group) {
  if (group.size() == 1) return;
  const std::vector<std::string> texts = comm::all_gather_text(group, describe(parameters, buffers));
  for (size_t r = 1; r < texts.size(); ++r) {
    if (texts[r] == texts[0]) continue;
    const auto [at_zero, at_other] = first_difference(texts[0], texts[r]);
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
