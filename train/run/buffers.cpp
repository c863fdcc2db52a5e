#include "train/run/buffers.h"

#include <set>

namespace lockstep::train {

void check_entry_names(const nn::Module& model) {
  std::set<std::string> names;
  const auto add = [&](const std::string& kind, const std::string& name) {
    check(!name.starts_with("optim."), "[train] the name of ", kind, " '", name,
          "' begins with 'optim.', as those of optimizer states in checkpoints do; rename the "
          "module 'optim'");
    check(names.insert(name).second, "[train] the model has two parameters or buffers '", name,
          "', and a checkpoint holds one tensor of a name: give them other names");
  };
  for (const Parameter& p : model.parameters()) add("parameter", p.name());
  for (const auto& [name, values] : model.buffers()) add("buffer", name);
}

void share_buffers(const NamedTensors& buffers, comm::ProcessGroup& group) {
  if (group.size() == 1) return;
  for (const auto& [name, values] : buffers) group.broadcast(values, 0).wait();
}

BufferRollback::BufferRollback(const NamedTensors& buffers) {
  for (const auto& [name, values] : buffers) before_.emplace_back(values, values.clone());
}

BufferRollback::~BufferRollback() {
  for (const auto& [now, before] : before_) now.copy_(before);
}

}  // namespace lockstep::train
