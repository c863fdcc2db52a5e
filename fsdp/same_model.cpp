#include "fsdp/same_model.h"

#include <sstream>

#include "comm/text.h"

namespace lockstep::fsdp {

void check_same_model(const nn::Module& module, comm::ProcessGroup& group) {
  std::ostringstream text;
  for (const Parameter& p : module.parameters())
    text << "parameter " << p.name() << ' ' << p.data() << (p.requires_grad() ? "" : " frozen")
         << (p.data().storage()->present() ? "" : " without values") << '\n';
  for (const auto& [name, tensor] : module.buffers())
    text << "buffer " << name << ' ' << tensor << '\n';
  comm::check_same_lines(group, text.str(), "[fsdp] the ranks do not hold the same model",
                         "build the model from the same configuration on every rank");
}

}  // namespace lockstep::fsdp
