#include "core/device/kernels.h"
#include "core/optim/device_rows.h"
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
  void update(std::span<const size_t> indices, const StepNumbers* numbers) override {
    std::vector<SgdRow> rows;
    rows.reserve(indices.size());
    for (const size_t i : indices) {
      const Parameter& p = parameters()[i];
      rows.push_back({.param = value(i),
                      .grad = gradient(i),
                      .momentum_buffer = options_.momentum != 0.0f ? state(i, 0) : nullptr,
                      .n = p.data().numel(),
                      .first_piece = 0,
                      .weight_decay = options_.decays(p) ? options_.weight_decay : 0.0f});
    }
    rows_.set(std::move(rows), kManyPiece, device());
    // The momentum starts at 0, which is equivalent to starting as the gradient.
    kernels(device()).sgd_many(current_queue(device()), {.rows = rows_.rows(),
                                                         .count = rows_.count(),
                                                         .pieces = rows_.pieces(),
                                                         .momentum = options_.momentum,
                                                         .nesterov = options_.nesterov,
                                                         .numbers = numbers});
  }

 private:
  SgdOptions options_;
  DeviceRows<SgdRow> rows_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sgd(std::vector<Parameter> parameters, const SgdOptions& options) {
  return std::make_unique<Sgd>(std::move(parameters), options);
}

}  // namespace lockstep::optim
