// One small training run on CUDA devices: a GPT with dropout, with DDP or FSDP.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/format/digest.h"
#include "comm/device_mesh.h"
#include "comm/process_group.h"
#include "core/nn/random.h"
#include "core/ops/functions.h"
#include "core/ops/precision.h"
#include "core/optim/clip.h"
#include "core/optim/optimizer.h"
#include "ddp/ddp.h"
#include "fsdp/fully_shard.h"
#include "tests/support/devices.h"
#include "train/models/gpt.h"

namespace lockstep::train::test {

struct DeviceRun {
  bool sharded = false;
  DType compute = DType::f32;
  // Of FSDP.
  fsdp::Options options = {};
  int rows = 1;  // copies of the model
};

constexpr int64_t kMicroBatches = 4;
constexpr int kSteps = 2;
constexpr GptOptions kModel{
    .layers = 2, .heads = 2, .dim = 24, .block = 8, .vocab = 48, .dropout = 0.1f};

// [2, 8] tokens of a micro-batch, and what follows each.
inline std::pair<Tensor, Tensor> tokens(int step, int64_t micro, Device device) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 2 * 9; ++i)
    ids.push_back((i * 7 + static_cast<int32_t>(micro) * 11 + step * 5 + i * i) % 48);
  const Tensor all = Tensor::from(ids, {2, 9}, device);
  return {all.narrow(1, 0, 8).contiguous(), all.narrow(1, 1, 8).contiguous()};
}

// The norm of the whole model's gradients, of which this rank holds a part.
inline double norm(const nn::Module& module, const std::vector<Parameter>& held,
                   comm::ProcessGroup& group) {
  return optim::grad_norm(module.parameters(), held, [&](const Tensor& bits) {
    group.host().all_reduce(bits, {.op = comm::ReduceOp::bor}).wait();
  });
}

// The weights' hash after the run, on every rank of the group.
inline std::string train(const DeviceRun& run, const std::shared_ptr<comm::ProcessGroup>& group) {
  const Device device = group->device();
  const DeviceScope scope(device);
  const auto model = std::make_shared<Gpt>(kModel);
  model->initialize(5);
  std::unique_ptr<ddp::DistributedDataParallel> whole;
  std::unique_ptr<fsdp::FullyShardedDataParallel> sharded;
  if (run.sharded) {
    fsdp::Options options = run.options;
    options.micro_batches = kMicroBatches;
    options.compute = run.compute;
    const comm::DeviceMesh mesh(group,
                                {{"replicate", run.rows}, {"shard", group->size() / run.rows}});
    sharded = fsdp::fully_shard(model, mesh, options);
  } else {
    // Small buckets, so that there are several.
    whole =
        std::make_unique<ddp::DistributedDataParallel>(model->parameters(), model->buffers(), group,
                                                       ddp::Options{.micro_batches = kMicroBatches,
                                                                    .first_bucket_bytes = 1 << 10,
                                                                    .bucket_bytes = 1 << 13});
  }
  const auto optimizer = optim::make_adamw(sharded ? sharded->parameters() : model->parameters(),
                                           {.weight_decay = 0.1f});
  for (int step = 1; step <= kSteps; ++step) {
    const ops::PrecisionScope precision(run.compute);
    std::vector<int64_t> leaves;
    if (sharded)
      for (const int64_t leaf : sharded->leaves()) leaves.push_back(leaf);
    else
      for (int64_t leaf = whole->tree().begin(group->rank());
           leaf < whole->tree().begin(group->rank() + 1); ++leaf)
        leaves.push_back(leaf);
    for (const int64_t micro : leaves) {
      const nn::RandomScope random(3, static_cast<uint32_t>(step), static_cast<uint32_t>(micro));
      const auto [inputs, targets] = tokens(step, micro, device);
      const Variable loss = ops::cross_entropy((*model)(Variable(inputs)), targets);
      sharded ? sharded->backward(loss) : whole->backward(loss);
    }
    sharded ? sharded->finish() : whole->finish();
    const double n = norm(*model, optimizer->parameters(), *group);
    optimizer->step(0.01f, optim::clip_scale(n, 0.5f));
    optimizer->zero_grad();
  }
  std::vector<checkpoint::NamedTensor> weights;
  if (sharded)
    sharded->for_each_whole([&](const std::string& name, const Tensor& values) {
      weights.emplace_back(name, values.to(kCpu));
    });
  else
    for (const Parameter& p : model->parameters())
      weights.emplace_back(p.name(), p.data().to(kCpu));
  return checkpoint::weights_sha256(weights);
}

}  // namespace lockstep::train::test
