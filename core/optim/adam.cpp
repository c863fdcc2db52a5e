#include "core/device/kernels.h"
#include "core/optim/device_rows.h"
#include "core/optim/optimizer.h"

namespace lockstep::optim {
namespace {

class Adam final : public Optimizer {
 public:
  Adam(std::vector<Parameter> parameters, const AdamOptions& options, bool decoupled)
      : Optimizer(std::move(parameters), {"exp_avg", "exp_avg_sq"}),
        options_(options),
        decoupled_(decoupled) {
    check(options.beta1 >= 0.0f && options.beta1 < 1.0f && options.beta2 >= 0.0f &&
              options.beta2 < 1.0f,
          "[adam] expected betas within [0, 1), got ", options.beta1, " and ", options.beta2);
    check(options.eps > 0.0f, "[adam] expected eps > 0, got ", options.eps);
    check(options.weight_decay >= 0.0f, "[adam] expected a weight decay of 0 or more, got ",
          options.weight_decay);
    check(options.decays != nullptr,
          "[adam] expected a rule for which parameters decay, got an empty function");
  }

 protected:
  void update(std::span<const size_t> indices, const StepNumbers* numbers) override {
    std::vector<AdamWRow> rows;
    rows.reserve(indices.size());
    for (const size_t i : indices) {
      const Parameter& p = parameters()[i];
      rows.push_back({.param = value(i),
                      .grad = gradient(i),
                      .exp_avg = state(i, 0),
                      .exp_avg_sq = state(i, 1),
                      .n = p.data().numel(),
                      .first_piece = 0,
                      .missed = missed(i),
                      .weight_decay = options_.decays(p) ? options_.weight_decay : 0.0f});
    }
    rows_.set(std::move(rows), kManyPiece, device());
    kernels(device()).adamw_many(current_queue(device()), {.rows = rows_.rows(),
                                                           .count = rows_.count(),
                                                           .pieces = rows_.pieces(),
                                                           .beta1 = options_.beta1,
                                                           .beta2 = options_.beta2,
                                                           .eps = options_.eps,
                                                           .decoupled_decay = decoupled_,
                                                           .numbers = numbers});
  }

 private:
  AdamOptions options_;
  bool decoupled_;
  DeviceRows<AdamWRow> rows_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adam(std::vector<Parameter> parameters,
                                     const AdamOptions& options) {
  return std::make_unique<Adam>(std::move(parameters), options, false);
}

std::unique_ptr<Optimizer> make_adamw(std::vector<Parameter> parameters,
                                      const AdamOptions& options) {
  return std::make_unique<Adam>(std::move(parameters), options, true);
}

}  // namespace lockstep::optim
