#include "data_parallel/same_model.h"

#include <algorithm>
#include <sstream>

#include "comm/text.h"

namespace lockstep::data_parallel {

void check_same_model(std::string_view wrapper, const std::vector<Parameter>& parameters,
                      const Buffers& buffers, comm::ProcessGroup& group) {
  std::ostringstream text;  // one line for each entry: equal texts mean equal models
  for (const Parameter& p : parameters)
    text << "parameter " << p.name() << ' ' << p.data() << (p.requires_grad() ? "" : " frozen")
         << (p.data().storage()->present() ? "" : " without values") << '\n';
  for (const auto& [name, tensor] : buffers) text << "buffer " << name << ' ' << tensor << '\n';
  comm::check_same_lines(group, text.str(),
                         str("[", wrapper, "] the ranks do not hold the same model"),
                         "build the model from the same configuration on every rank");
}

void check_devices(std::string_view wrapper, const std::vector<Parameter>& parameters,
                   const Buffers& buffers, const comm::ProcessGroup& group) {
  const auto check_one = [&](std::string_view kind, const std::string& name, Device device) {
    check(device == group.device(), "[", wrapper, "] ", kind, " '", name, "' is on ", device,
          ", but group '", group.name(), "' is on ", group.device(),
          ": make the model under a DeviceScope of the device that GroupOptions::device names");
  };
  for (const Parameter& p : parameters) check_one("parameter", p.name(), p.device());
  for (const auto& [name, tensor] : buffers) check_one("buffer", name, tensor.device());
}

std::string names_of(const std::vector<Parameter>& parameters) {
  constexpr size_t kShown = 8;
  std::string names;
  for (size_t i = 0; i < std::min(parameters.size(), kShown); ++i)
    names += str(i ? ", '" : "'", parameters[i].name(), "'");
  if (parameters.size() > kShown) names += str(" and ", parameters.size() - kShown, " more");
  return names;
}

std::string no_gradient_reached(int rank, const std::vector<Parameter>& parameters) {
  return str("rank ", rank, ": no gradient reached ", names_of(parameters),
             " in this micro-batch; if that is meant, set find_unused_parameters, otherwise check "
             "the model's forward()");
}

}  // namespace lockstep::data_parallel
