// One small training run, on ranks that are threads: with FSDP, or with DDP on one rank, which is
// the reference.
#pragma once

#include <bit>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "core/nn/module.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "core/optim/clip.h"
#include "core/optim/optimizer.h"
#include "ddp/ddp.h"
#include "fsdp/fully_shard.h"
#include "tests/support/run_group.h"

namespace lockstep::fsdp::test {

using lockstep::test::expect_success;
using lockstep::test::Group;
using lockstep::test::run_group;

inline Tensor random(const Shape& shape, uint32_t site) {
  Tensor t = Tensor::empty(shape);
  kernels(kCpu).normal(current_queue(kCpu), t.numel(), 0, 1, {.seed = 7, .site = site}, 0,
                       t.data<float>());
  return t;
}

// A module tree built from the outside: forward is a function.
struct Tree : nn::Module {
  using nn::Module::register_buffer;
  using nn::Module::register_module;
  using nn::Module::register_parameter;
  using nn::Module::register_shared_parameter;
  std::function<Variable(const Variable&)> body;
  Variable forward(const Variable& x) override { return body(x); }
};

struct Model {
  std::shared_ptr<nn::Module> module;
  std::function<Variable(int64_t micro)> loss;  // of a micro-batch, through the module
  // Makes the next pass throw EnvironmentError, where it comes so far; may be empty. `number`: of
  // the micro-batch, the same on all ranks.
  std::function<void(int64_t number)> arm = {};
};

struct Recipe {
  std::function<Model()> make;
  int64_t micro_batches = 8;
  int steps = 2;
  DType compute = DType::f32;
  float clip = 0;
  Options options = {};                                     // of FSDP
  int shards = 0;                                           // 0: all ranks
  std::function<comm::DeviceMesh(const Group&)> mesh = {};  // instead of `shards`
};

using Bits = std::map<std::string, std::vector<uint32_t>>;

inline std::vector<uint32_t> bits(const Tensor& t) {
  std::vector<uint32_t> out;
  for (float f : t.to_vector<float>()) out.push_back(std::bit_cast<uint32_t>(f));
  return out;
}

// Weight matrices decay, as is the default.
inline std::unique_ptr<optim::Optimizer> optimizer_for(const std::vector<Parameter>& updated) {
  return optim::make_adamw(updated, {.weight_decay = 0.1f});
}

inline double norm(const nn::Module& module, const std::vector<Parameter>& updated,
                   comm::ProcessGroup& group) {
  return optim::grad_norm(module.parameters(), updated, [&](const Tensor& bits) {
    group.all_reduce(bits, {.op = comm::ReduceOp::bor}).wait();
  });
}

// All weights after the run, with DDP on one rank.
inline Bits train_reference(const Recipe& recipe) {
  Bits result;
  expect_success(run_group(1, [&](const Group& group) {
    const Model model = recipe.make();
    std::vector<Parameter> trained;  // the frozen ones of other dtypes are not for DDP
    for (const Parameter& p : model.module->parameters())
      if (p.requires_grad()) trained.push_back(p);
    ddp::DistributedDataParallel ddp(
        trained, model.module->buffers(), group,
        {.micro_batches = recipe.micro_batches, .find_unused_parameters = true});
    const auto optimizer = optimizer_for(trained);
    for (int step = 0; step < recipe.steps; ++step) {
      {
        ops::PrecisionScope precision(recipe.compute);
        for (int64_t m = 0; m < recipe.micro_batches; ++m)
          ddp.backward(model.loss(m + step * recipe.micro_batches));
        ddp.finish();
      }
      const double n = norm(*model.module, optimizer->parameters(), *group);
      optimizer->step(0.01f, optim::clip_scale(n, recipe.clip));
      optimizer->zero_grad();
    }
    for (const Parameter& p : model.module->parameters()) result[p.name()] = bits(p.data());
  }));
  return result;
}

// The same with FSDP, as rank 0 sees it. What threw is tried again; `threw` counts that, on rank 0.
inline Bits train_sharded(const Recipe& recipe, int ranks, int* threw = nullptr) {
  Bits result;
  expect_success(run_group(ranks, [&](const Group& group) {
    const Model model = recipe.make();
    Options options = recipe.options;
    options.micro_batches = recipe.micro_batches;
    options.compute = recipe.compute;
    const int shards = recipe.shards > 0 ? recipe.shards : ranks;
    const comm::DeviceMesh mesh =
        recipe.mesh ? recipe.mesh(group)
                    : comm::DeviceMesh(group, {{"replicate", ranks / shards}, {"shard", shards}});
    const auto sharded = fully_shard(model.module, mesh, options);
    const auto optimizer = optimizer_for(sharded->parameters());
    for (int step = 0; step < recipe.steps; ++step) {
      {
        ops::PrecisionScope precision(recipe.compute);
        int64_t number = step * recipe.micro_batches;
        for (const int64_t leaf : sharded->leaves()) {
          if (model.arm) model.arm(++number);
          try {
            sharded->backward(model.loss(leaf + step * recipe.micro_batches));
          } catch (const EnvironmentError&) {
            if (!model.arm) throw;
            if (threw && group->rank() == 0) ++*threw;
            model.arm(-1);
            sharded->backward(model.loss(leaf + step * recipe.micro_batches));
          }
        }
        sharded->finish();
      }
      const double n = norm(*model.module, sharded->parameters(), *group);
      optimizer->step(0.01f, optim::clip_scale(n, recipe.clip));
      optimizer->zero_grad();
    }
    sharded->for_each_whole([&](const std::string& name, const Tensor& whole) {
      if (group->rank() == 0) result[name] = bits(whole);
    });
  }));
  return result;
}

}  // namespace lockstep::fsdp::test
