#include "tests/core/device/cuda/against_cpu.h"

namespace lockstep::testing {
namespace {

class CudaOptimizer : public CudaTest {};

// Parameters, gradients and an optimizer's two buffers.
struct State {
  Twin<float> param, grad, first, second;
  explicit State(int64_t n, int64_t shift = 0)
      : param(random_twin<float>(n, 1, -1, 1, shift)),
        grad(random_twin<float>(n, 2, -1, 1, shift)),
        first(random_twin<float>(n, 3, -1, 1, shift)),
        second(random_twin<float>(n, 4, 0, 1, shift)) {}

  // One sequence of operations on both devices gives the same bits.
  void expect_equal() const {
    const Tolerance allowed = cpu_fuses() ? Tolerance{} : Tolerance{3e-6};
    param.expect_equal(allowed);
    grad.expect_equal();
    first.expect_equal(allowed);
    second.expect_equal(allowed);
  }
};

struct AdamWCase {
  float lr, beta1, beta2, eps, weight_decay;
  bool decoupled;
  int64_t step;
  float grad_scale;
};
const AdamWCase kAdamW[] = {
    {0.1f, 0.9f, 0.95f, 1e-8f, 0.2f, true, 1, 1.0f},
    {0.1f, 0.9f, 0.95f, 1e-8f, 0.2f, false, 1, 0.5f},
    {3e-4f, 0.9f, 0.999f, 1e-8f, 0.1f, true, 1000, 0.37f},
    {3e-4f, 0.8f, 0.99f, 1e-6f, 0.1f, false, 123456, 1.0f},
    {1e-3f, 0.0f, 0.9f, 1e-10f, 0.0f, true, 2, 1.0f},
};

TEST_F(CudaOptimizer, AdamWStepsAsTheCpu) {
  for (const AdamWCase& c : kAdamW)
    for (int64_t n : {0, 1, 3, 4, 37, 1024, 5003})
      for (int64_t shift : {0, 1}) {
        SCOPED_TRACE(str("case ", &c - kAdamW, " n ", n, " shift ", shift));
        const State s(n, shift);
        on_both([&](const Kernels& k, const Queue& q, Device d) {
          k.adamw(q, {n, s.param.on(d), s.grad.on(d), s.first.on(d), s.second.on(d), c.lr, c.beta1,
                      c.beta2, c.eps, c.weight_decay, c.decoupled, c.step, c.grad_scale});
        });
        s.expect_equal();
      }
}

TEST_F(CudaOptimizer, SgdStepsAsTheCpu) {
  for (int64_t n : {0, 1, 5, 64, 5003})
    for (int64_t shift : {0, 1})
      for (bool momentum : {false, true})
        for (bool nesterov : {false, true})
          for (bool first_step : {false, true}) {
            SCOPED_TRACE(str("n ", n, " shift ", shift, momentum ? " momentum" : "",
                             nesterov ? " nesterov" : "", first_step ? " first step" : ""));
            const State s(n, shift);
            on_both([&](const Kernels& k, const Queue& q, Device d) {
              k.sgd(q, {n, s.param.on(d), s.grad.on(d), momentum ? s.first.on(d) : nullptr, 0.1f,
                        momentum ? 0.9f : 0.0f, 0.01f, nesterov, first_step, 0.5f});
            });
            s.expect_equal();
          }
}

// The buffer's contents before the first step do not matter.
TEST_F(CudaOptimizer, TheFirstStepOfSgdDoesNotReadItsBuffer) {
  const State s(33);
  const Twin<float> buffer(std::vector<float>(33, NAN));
  on_both([&](const Kernels& k, const Queue& q, Device d) {
    k.sgd(q, {33, s.param.on(d), s.grad.on(d), buffer.on(d), 0.1f, 0.9f, 0.01f, false, true, 0.5f});
  });
  s.expect_equal();
  buffer.expect_equal(cpu_fuses() ? Tolerance{} : Tolerance{3e-6});
}

}  // namespace
}  // namespace lockstep::testing
