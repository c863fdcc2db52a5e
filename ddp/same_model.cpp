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

}  // namespace

void check_same_model(const std::vector<Parameter>& parameters, const std::vector<std::pair<std::string, Tensor>>& buffers,
                      comm::ProcessGroup& group) {
  comm::check_same_lines(group, describe(parameters, buffers), "[ddp] the ranks do not hold the same model",
                         "build the model from the same configuration on every rank");
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
