#include "core/device/kernels.h"
#include "core/optim/optimizer.h"

namespace lockstep::optim {
namespace {

class Sgd final : public Optimizer {
 public:
  Sgd(std::vector<Parameter> parameters, const SgdOptions& options)
      : Optimizer(std::move(parameters), options.momentum != 0.0f
                                             ? std::vector<std::string>{"momentum"}
                                             : std::vector<std::string>{}),
        options_(options) {
    check(options.momentum >= 0.0f && options.momentum < 1.0f,
          "[sgd] expected a momentum within [0, 1), got ", options.momentum);
    check(options.weight_decay >= 0.0f, "[sgd] expected a weight decay of 0 or more, got ",
          options.weight_decay);
    check(options.decays != nullptr,
          "[sgd] expected a rule for which parameters decay, got an empty function");
    check(!options.nesterov || options.momentum > 0.0f, "[sgd] nesterov needs a momentum above 0");
  }

 protected:
  void update(size_t i, float lr, float grad_scale) override {
    const Parameter& p = parameters()[i];
    const bool momentum = options_.momentum != 0.0f;
    kernels(p.device())
        .sgd(current_queue(p.device()),
             {.n = p.data().numel(),
              .param = value(i),
              .grad = gradient(i),
              .momentum_buffer = momentum ? state(i, 0) : nullptr,
              .lr = lr,
              .momentum = options_.momentum,
              .weight_decay = options_.decays(p) ? options_.weight_decay : 0.0f,
              .nesterov = options_.nesterov,
              .first_step = false,  // the buffer starts at 0, which is equivalent
              .grad_scale = grad_scale});
  }

 private:
  SgdOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sgd(std::vector<Parameter> parameters, const SgdOptions& options) {
  return std::make_unique<Sgd>(std::move(parameters), options);
}

}  // namespace lockstep::optim
