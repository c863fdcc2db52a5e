#include "ddp/usable_model.h"

#include <unordered_set>

#include "comm/text.h"
#include "core/autograd/node.h"
#include "data_parallel/same_model.h"

namespace lockstep::ddp {
namespace {

void check_memory(std::string_view kind, const std::string& name, const Tensor& values) {
  check(values.defined() && values.storage()->present(), "[ddp] ", kind, " '", name,
        "' has no values: initialize(seed), or ",
        "materialize() a model that was built without memory, before it is wrapped");
  check(values.is_contiguous(), "[ddp] ", kind, " '", name, "' is ", values, " with strides ",
        values.strides(), ", but ranks exchange contiguous memory: give it values.contiguous()");
}

void check_here(const std::vector<Parameter>& parameters,
                const std::vector<std::pair<std::string, Tensor>>& buffers) {
  for (const Parameter& p : parameters)
    if (p.defined() && p.impl()->grad->source)
      throw UsageError(str("[ddp] parameter '", p.name(),
                           "' belongs to a model that was sharded: train it through its "
                           "FullyShardedDataParallel, or build it anew"));
  std::unordered_set<const void*> seen;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    check(p.defined(), "[ddp] parameter ", i, " of the ", parameters.size(),
          " listed is undefined");
    check_memory("parameter", p.name(), p.data());
    check(p.dtype() == DType::f32, "[ddp] parameter '", p.name(), "' is ", p.data(),
          ", but gradients are summed in f32: keep f32 parameters and compute in bf16 through "
          "ops::PrecisionScope");
    check(seen.insert(p.impl().get()).second, "[ddp] parameter '", p.name(),
          "' is listed twice: list one that several modules share once");
  }
  for (const auto& [name, tensor] : buffers) check_memory("buffer", name, tensor);
}

// Whether all ranks have the same flags, from the minima of the flags and their complements.
bool all_have(const std::vector<uint8_t>& flags, comm::ProcessGroup& host, uint64_t label) {
  std::vector<uint8_t> mine = flags;
  for (const uint8_t flag : flags) mine.push_back(1 - flag);
  const Tensor least = Tensor::from(mine, {std::ssize(mine)});
  host.all_reduce(least, {.op = comm::ReduceOp::min, .label = label}).wait();
  const auto of = least.span<uint8_t>();
  for (size_t i = 0; i < flags.size(); ++i)
    if (of[i] + of[flags.size() + i] != 1) return false;
  return true;
}

}  // namespace

void check_usable(const std::vector<Parameter>& parameters,
                  const std::vector<std::pair<std::string, Tensor>>& buffers,
                  comm::ProcessGroup& group) {
  comm::agree(&group, [&] {
    check_here(parameters, buffers);
    data_parallel::check_devices("ddp", parameters, buffers, group);
    return std::string();
  });
}

void check_same_freezing(const std::vector<Parameter>& parameters, comm::ProcessGroup& group,
                         uint64_t label) {
  const size_t count = parameters.size();
  std::vector<uint8_t> mine;
  for (const Parameter& p : parameters) mine.push_back(p.requires_grad() ? 1 : 0);
  if (all_have(mine, group.host(), label)) return;
  const auto numel = static_cast<int64_t>(count);
  const Tensor all = Tensor::empty({group.size() * numel}, DType::u8);
  group.host().all_gather(all, Tensor::from(mine, {numel}), label).wait();
  const auto flags = all.to_vector<uint8_t>();
  const auto word = [](uint8_t trained) { return trained != 0 ? "trains it" : "has it frozen"; };
  for (size_t i = 0; i < count; ++i)
    for (size_t r = 1; r < static_cast<size_t>(group.size()); ++r)
      check(flags[r * count + i] == flags[i],
            "[ddp] the ranks do not train the same parameters: of '", parameters[i].name(),
            "', rank 0 ", word(flags[i]), " and rank ", r, " ", word(flags[r * count + i]),
            "; call set_requires_grad() alike on every rank");
}

void broadcast_model(const std::vector<Parameter>& parameters,
                     const std::vector<std::pair<std::string, Tensor>>& buffers,
                     comm::ProcessGroup& group) {
  if (group.size() == 1) return;
  std::vector<comm::Work> pending;
  for (const Parameter& p : parameters) pending.push_back(group.broadcast(p.data(), 0));
  for (const auto& [name, tensor] : buffers) pending.push_back(group.broadcast(tensor, 0));
  for (const comm::Work& work : pending) work.wait();
}

}  // namespace lockstep::ddp
