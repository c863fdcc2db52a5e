// DistributedDataParallel and fully sharded models.
#include <memory>
#include <optional>
#include <set>

#include "checkpoint/checkpoint.h"
#include "checkpoint/format/digest.h"
#include "core/optim/clip.h"
#include "ddp/ddp.h"
#include "fsdp/fully_shard.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/group.h"
#include "python/bindings/guard.h"
#include "python/bindings/node.h"

namespace lockstep::python {
namespace {

using Parameters = std::vector<Parameter>;
using Named = std::vector<std::pair<std::string, Variable>>;
using Micro = std::optional<int64_t>;

// Both wrappers look alike to Python. `W`: the library's wrapper.
template <typename W>
struct Wrapper {
  std::shared_ptr<comm::ProcessGroup> group;
  std::shared_ptr<W> wrapper;
  W& get() const {
    check(wrapper != nullptr, "[parallel] the wrapper was not made, or was closed");
    return *wrapper;
  }
};
using Ddp = Wrapper<ddp::DistributedDataParallel>;
using Fsdp = Wrapper<fsdp::FullyShardedDataParallel>;

// Frees the wrapper without the GIL: its end may wait, and drops Python's functions.
template <typename W>
std::shared_ptr<W> freed_without_gil(std::unique_ptr<W> wrapper) {
  return {wrapper.release(), [](W* p) {
            if (Py_IsInitialized() && PyGILState_Check()) {
              const py::gil_scoped_release release;
              delete p;
            } else {
              delete p;
            }
          }};
}

Ddp make_ddp(const Parameters& parameters, const Named& buffers, const Group& group,
             int64_t micro_batches, double bucket_mb, bool find_unused) {
  group.get("DistributedDataParallel");
  check(bucket_mb > 0 && bucket_mb < 1e6, "[ddp] expected bucket_mb above 0, got ", bucket_mb);
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, values] : buffers) tensors.emplace_back(name, values.data());
  const auto bytes = static_cast<int64_t>(bucket_mb * 1e6);
  return {group.group, freed_without_gil(std::make_unique<ddp::DistributedDataParallel>(
                           parameters, tensors, group.group,
                           ddp::Options{.micro_batches = micro_batches,
                                        .first_bucket_bytes = std::min<int64_t>(bytes, 1 << 20),
                                        .bucket_bytes = bytes,
                                        .find_unused_parameters = find_unused}))};
}

std::vector<int64_t> leaves_of(const ddp::DistributedDataParallel& ddp, int rank) {
  std::vector<int64_t> leaves;
  for (int64_t i = ddp.tree().begin(rank); i < ddp.tree().begin(rank + 1); ++i) leaves.push_back(i);
  return leaves;
}
std::vector<int64_t> leaves_of(const fsdp::FullyShardedDataParallel& fsdp, int) {
  const Progression leaves = fsdp.leaves();
  return {leaves.begin(), leaves.end()};
}

template <typename W>
py::class_<Wrapper<W>> bind_wrapper(py::module_& m, const char* name) {
  using T = Wrapper<W>;
  py::class_<T> type(m, name);
  zero_unconstructed(type);
  type.def("leaves", [](const T& x) { return leaves_of(x.get(), x.group->rank()); })
      .def(
          "backward",
          [](const T& x, const Variable& loss, Micro micro) {
            micro ? x.get().backward(loss, *micro) : x.get().backward(loss);
          },
          py::arg("loss"), py::arg("micro_batch") = py::none(), Run())
      .def(
          "finish", [](const T& x) { x.get().finish(); }, Run())
      .def(
          "active_ranks", [](const T& x, bool have) { return x.get().active_ranks(have); }, Run())
      .def(
          "skip", [](const T& x) { x.get().skip(); }, Run())
      .def("exposed_communication",
           [](const T& x) { return seconds(x.get().exposed_communication()); })
      .def("close", [](T& x) { x.wrapper.reset(); });
  return type;
}

Fsdp make_fsdp(const std::shared_ptr<PyNode>& node, const Mesh& mesh, const py::dict& options) {
  fsdp::Options chosen;
  chosen.micro_batches = options["micro_batches"].cast<int64_t>();
  chosen.reshard = options["reshard_after_forward"].cast<bool>() ? fsdp::Reshard::after_forward
                                                                 : fsdp::Reshard::after_step;
  chosen.accumulate = options["accumulate_in_shards"].cast<bool>() ? fsdp::Accumulate::in_shards
                                                                   : fsdp::Accumulate::in_full;
  chosen.nearby = options["nearby"].cast<int>();
  chosen.units_in_flight = options["units_in_flight"].cast<int>();
  chosen.find_unused_parameters = options["find_unused_parameters"].cast<bool>();
  const auto units = options["units"].cast<std::set<std::string>>();
  chosen.wrap = [units](const nn::Module& module) { return units.count(module.path()) != 0; };
  comm::DeviceMesh& grid = mesh.get();
  const Released released;
  return {grid.world(), freed_without_gil(fsdp::fully_shard(node, grid, std::move(chosen)))};
}

void for_each_whole(const Fsdp& x, const std::optional<py::function>& use) {
  if (!use) {
    const Released released;
    return x.get().for_each_whole({});
  }
  const Held function(*use);
  const Released released;
  x.get().for_each_whole([function](const std::string& name, const Tensor& whole) {
    const Variable copy(whole.clone());
    const py::gil_scoped_acquire gil;
    function.get()(name, copy);
  });
}

std::string digest_of(const Fsdp& x) {
  checkpoint::WeightsDigest digest;
  x.get().for_each_whole(
      [&](const std::string& name, const Tensor& whole) { digest.add(name, whole); });
  return digest.hex();
}

double norm_of(const Fsdp& x, const Parameters& whole) {
  return optim::grad_norm(whole, x.get().parameters(), [&](const Tensor& bits) {
    x.group->host().all_reduce(bits, {.op = comm::ReduceOp::bor}).wait();
  });
}

}  // namespace

void bind_parallel(py::module_& m) {
  auto ddp = bind_wrapper<ddp::DistributedDataParallel>(m, "Ddp");
  ddp.def(py::init(&make_ddp), Run());
  struct NoSync {
    std::shared_ptr<ddp::DistributedDataParallel> ddp;
    std::unique_ptr<ddp::DistributedDataParallel::NoSync> guard;
  };
  py::class_<NoSync>(m, "NoSync")
      .def(py::init([](const Ddp& x) {
        x.get();
        return NoSync{x.wrapper,
                      std::make_unique<ddp::DistributedDataParallel::NoSync>(*x.wrapper)};
      }))
      .def("end", [](NoSync& no_sync) { no_sync.guard.reset(); });

  auto fsdp = bind_wrapper<fsdp::FullyShardedDataParallel>(m, "Fsdp");
  fsdp.def(py::init(&make_fsdp))
      .def("parameters", [](const Fsdp& x) { return x.get().parameters(); })
      .def(
          "begin_micro_batch", [](const Fsdp& x) { x.get().begin_micro_batch(); }, Run())
      .def(
          "values_changed", [](const Fsdp& x) { x.get().values_changed(); }, Run())
      .def("units", [](const Fsdp& x) { return x.get().units(); })
      .def("for_each_whole", &for_each_whole)
      .def("weights_sha256", &digest_of, Run())
      .def("grad_norm", &norm_of, Run())
      .def("entries", [](const Fsdp& x) {
        std::vector<checkpoint::Entry> entries;
        for (const auto& slice : x.get().slices())
          entries.emplace_back(slice.name, slice.values, slice.spec);
        return entries;
      });
  m.def(
      "weights_sha256",
      [](const Named& tensors) {
        std::vector<checkpoint::NamedTensor> all;
        for (const auto& [name, values] : tensors) all.emplace_back(name, values.data());
        return checkpoint::weights_sha256(all);
      },
      Run());
}

}  // namespace lockstep::python
