// Optimizers, schedules and gradient norms.
#include "core/optim/clip.h"
#include "core/optim/optimizer.h"
#include "core/optim/schedule.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/guard.h"

namespace lockstep::python {
namespace {

using Parameters = std::vector<Parameter>;
using OptimizerClass = py::class_<optim::Optimizer, std::shared_ptr<optim::Optimizer>>;

// "all", "matrices", or a function of the parameter.
optim::DecayRule rule_of(const py::object& decay) {
  if (PyCallable_Check(decay.ptr())) {
    const Held function(decay);
    return [function](const Parameter& p) {
      const py::gil_scoped_acquire gil;
      return function.get()(p).cast<bool>();
    };
  }
  const std::string word = py::isinstance<py::str>(decay) ? decay.cast<std::string>() : "";
  check(word == "all" || word == "matrices",
        "[optim] expected decay to be 'all', 'matrices' or a function of a parameter, got ",
        std::string(py::repr(decay)));
  return word == "all" ? optim::decay_all : optim::decay_matrices;
}

std::shared_ptr<optim::Optimizer> sgd(Parameters parameters, float momentum, float weight_decay,
                                      bool nesterov, const py::object& decay) {
  return optim::make_sgd(std::move(parameters), {.momentum = momentum,
                                                 .weight_decay = weight_decay,
                                                 .nesterov = nesterov,
                                                 .decays = rule_of(decay)});
}

std::shared_ptr<optim::Optimizer> adam(Parameters parameters, float beta1, float beta2, float eps,
                                       float weight_decay, const py::object& decay,
                                       bool decoupled) {
  const optim::AdamOptions options{.beta1 = beta1,
                                   .beta2 = beta2,
                                   .eps = eps,
                                   .weight_decay = weight_decay,
                                   .decays = rule_of(decay)};
  return decoupled ? optim::make_adamw(std::move(parameters), options)
                   : optim::make_adam(std::move(parameters), options);
}

py::dict state_of(const optim::Optimizer& optimizer) {
  py::dict state;
  for (const auto& [name, values] : optimizer.state()) state[py::str(name)] = Variable(values);
  return state;
}

float lr_at(const std::string& kind, double lr, double min_lr, int64_t warmup, int64_t steps,
            int64_t step) {
  using Kind = optim::Schedule::Kind;
  check(kind == "constant" || kind == "linear" || kind == "cosine",
        "[schedule] expected constant, linear or cosine, got '", kind, "'");
  return optim::lr_at({.kind = kind == "cosine"   ? Kind::cosine
                               : kind == "linear" ? Kind::linear
                                                  : Kind::constant,
                       .lr = static_cast<float>(lr),
                       .min_lr = static_cast<float>(min_lr),
                       .warmup = warmup,
                       .steps = steps},
                      step);
}

}  // namespace

void bind_optim(py::module_& m) {
  OptimizerClass(m, "Optimizer")
      .def(
          "step", [](optim::Optimizer& o, float lr, float scale) { o.step(lr, scale); },
          py::arg("lr"), py::arg("grad_scale") = 1.0f, Run())
      .def("zero_grad", &optim::Optimizer::zero_grad, Run())
      .def("state", &state_of)
      .def("steps", &optim::Optimizer::steps)
      .def("updates_out_of_step", &optim::Optimizer::updates_out_of_step)
      .def("set_steps", &optim::Optimizer::set_steps)
      .def("parameters", &optim::Optimizer::parameters);
  m.def("sgd", &sgd);
  m.def("adam", &adam);
  m.def("lr_at", &lr_at);
  m.def(
      "grad_norm", [](const Parameters& parameters) { return optim::grad_norm(parameters); },
      Run());
  m.def("clip_scale", &optim::clip_scale, py::arg("norm"), py::arg("max_norm"));
}

}  // namespace lockstep::python
