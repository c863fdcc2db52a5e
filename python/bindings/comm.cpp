// lockstep.distributed: groups, collectives, meshes.
#include <cmath>
#include <optional>

#include "comm/peer_failure.h"
#include "launcher/rank/rank_env.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/group.h"
#include "python/bindings/guard.h"
#include "python/bindings/interruptible_store.h"
#include "python/bindings/tensor.h"
#include "train/parallel/groups.h"

namespace lockstep::python {
namespace {

using comm::Work;
using Seconds = std::optional<double>;

Duration duration_of(double seconds) {
  check(std::isfinite(seconds) && seconds > 0 && seconds < 1e9,
        "[timeout] expected seconds above 0, got ", seconds);
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

comm::ReduceOp op_named(const std::string& name) {
  using comm::ReduceOp;
  for (const ReduceOp op : {ReduceOp::sum, ReduceOp::product, ReduceOp::min, ReduceOp::max,
                            ReduceOp::band, ReduceOp::bor, ReduceOp::bxor})
    if (comm::name_of(op) == name) return op;
  throw UsageError(
      str("[distributed] expected sum, product, min, max, band, bor or bxor, got '", name, "'"));
}

// What a collective writes to.
const Tensor& output(const char* call, const Variable& x) {
  check_writable(call, x);
  return x.data();
}
Tensor optional(const std::optional<Variable>& x) { return x ? x->data() : Tensor(); }

Group init(const std::string& backend, Seconds timeout, const std::string& reduction,
           Device device) {
  const launcher::RankEnv rank = launcher::detect_rank();
  train::ParallelConfig config = train::with_backend(backend);
  if (timeout) config.timeout_s = seconds(duration_of(*timeout));
  check(reduction == "tree" || reduction == "fast",
        "[init_process_group] expected reduction to be 'tree' or 'fast', got '", reduction, "'");
  if (reduction == "fast") config.reduction = train::ReductionKind::fast;
  auto group = train::make_group(config, rank, device, [](std::shared_ptr<comm::Store> store) {
    return std::make_shared<InterruptibleStore>(std::move(store));
  });
  return {shared(std::move(group))};
}

void bind_collectives(py::class_<Group>& group) {
  group
      .def(
          "all_reduce",
          [](const Group& g, const Variable& x, const std::string& op) {
            return g.get("all_reduce").all_reduce(output("all_reduce", x), {.op = op_named(op)});
          },
          py::arg("tensor"), py::arg("op") = "sum", Run(),
          "In place: the sum (or product, min, max, band, bor, bxor) over all ranks.")
      .def(
          "reduce",
          [](const Group& g, const Variable& x, int root, const std::string& op) {
            return g.get("reduce").reduce(output("reduce", x), root, {.op = op_named(op)});
          },
          py::arg("tensor"), py::arg("root"), py::arg("op") = "sum", Run(),
          "The sum at `root`; elsewhere the tensor is unchanged.")
      .def(
          "reduce_scatter",
          [](const Group& g, const Variable& out, const Variable& in, const std::string& op) {
            return g.get("reduce_scatter")
                .reduce_scatter(output("reduce_scatter", out), in.data(), {.op = op_named(op)});
          },
          py::arg("output"), py::arg("input"), py::arg("op") = "sum", Run(),
          "input [ranks * n] to output [n]: this rank's slice of the sum.")
      .def(
          "all_gather",
          [](const Group& g, const Variable& out, const Variable& in) {
            return g.get("all_gather").all_gather(output("all_gather", out), in.data());
          },
          py::arg("output"), py::arg("input"), Run(),
          "input [n] to output [ranks * n], in the order of ranks.")
      .def(
          "broadcast",
          [](const Group& g, const Variable& x, int root) {
            return g.get("broadcast").broadcast(output("broadcast", x), root);
          },
          py::arg("tensor"), py::arg("root"), Run(), "The values of `root` on every rank.")
      .def(
          "gather",
          [](const Group& g, const std::optional<Variable>& out, const Variable& in, int root) {
            if (out) output("gather", *out);
            return g.get("gather").gather(optional(out), in.data(), root);
          },
          py::arg("output"), py::arg("input"), py::arg("root"), Run(),
          "input [n] to output [ranks * n] at `root`; elsewhere output may be None.")
      .def(
          "scatter",
          [](const Group& g, const Variable& out, const std::optional<Variable>& in, int root) {
            return g.get("scatter").scatter(output("scatter", out), optional(in), root);
          },
          py::arg("output"), py::arg("input"), py::arg("root"), Run(),
          "input [ranks * n] of `root` to output [n]; elsewhere input may be None.")
      .def(
          "all_to_all",
          [](const Group& g, const Variable& out, const Variable& in) {
            return g.get("all_to_all").all_to_all(output("all_to_all", out), in.data());
          },
          py::arg("output"), py::arg("input"), Run(),
          "input [ranks * n] to output [ranks * n]: slice i goes to rank i.")
      .def(
          "send",
          [](const Group& g, const Variable& x, int to) {
            return g.get("send").send(x.data(), to);
          },
          py::arg("tensor"), py::arg("destination"), Run())
      .def(
          "recv",
          [](const Group& g, const Variable& x, int from) {
            return g.get("recv").recv(output("recv", x), from);
          },
          py::arg("tensor"), py::arg("source"), Run())
      .def(
          "barrier", [](const Group& g) { return g.get("barrier").barrier(); }, Run());
}

void bind_group(py::module_& m) {
  py::class_<Group> group(
      m, "ProcessGroup",
      "Ranks that work together. All ranks call the same collectives in the same "
      "order. Each call returns a Work; its tensors must be dense, and stay "
      "untouched until wait() has returned.");
  zero_unconstructed(group);
  group.def_property_readonly("rank", [](const Group& g) { return g.get("rank").rank(); })
      .def_property_readonly("size", [](const Group& g) { return g.get("size").size(); })
      .def_property_readonly("name", [](const Group& g) { return g.get("name").name(); })
      .def_property_readonly("backend",
                             [](const Group& g) { return g.get("backend").backend_name(); })
      .def_property_readonly("device", [](const Group& g) { return g.get("device").device(); })
      .def(
          "split",
          [](const Group& g, int color, int key) -> std::optional<Group> {
            auto part = g.get("split").split(color, key);
            if (!part) return std::nullopt;
            return Group{shared(std::move(part))};
          },
          py::arg("color"), py::arg("key") = 0, Run(),
          "Collective. Groups of ranks of equal `color`, ordered by `key`, then rank. None for a "
          "color below 0.")
      .def(
          "abort", [](const Group& g, const std::string& why) { g.get("abort").abort(why); },
          py::arg("reason"), Run(), "Ends the group on all ranks: each call fails with `reason`.")
      .def(
          "recent_calls", [](const Group& g) { return g.get("recent_calls").recent_calls(); },
          "The last calls with their times, the newest last.")
      .def("destroy", [](Group& g) { g.group.reset(); });
  bind_collectives(group);
  py::class_<Work>(m, "Work", "A collective that is under way.")
      .def(
          "wait",
          [](const Work& work, Seconds timeout) {
            timeout ? work.wait(duration_of(*timeout)) : work.wait();
          },
          py::arg("timeout") = py::none(), Run(),
          "Waits for the result. `timeout` in seconds, by default the group's. Raises the call's "
          "failure, or TimeoutError that names the ranks that are missing, and ends the group.")
      .def("is_completed", &Work::done)
      .def_property_readonly(
          "duration", [](const Work& w) { return seconds(w.duration()); },
          "Seconds from the call to its end; 0 while it runs.");
}

void bind_mesh(py::module_& m) {
  py::class_<Mesh> mesh(m, "DeviceMesh", "Ranks as the points of a grid with named dimensions.");
  zero_unconstructed(mesh);
  const auto make = [](const Group& world, const std::vector<std::pair<std::string, int>>& sizes) {
    std::vector<comm::MeshDimension> dimensions;
    for (const auto& [name, size] : sizes) dimensions.push_back({name, size});
    world.get("DeviceMesh");
    return Mesh{shared(comm::DeviceMesh(world.group, dimensions))};
  };
  mesh.def(py::init(make), Run(), py::arg("world"), py::arg("dimensions"))
      .def(
          "submesh",
          [](const Mesh& mesh_, const std::vector<std::string>& names) {
            return Mesh{shared(mesh_.get().submesh(names))};
          },
          py::arg("names"), Run(), "Collective over the whole mesh.")
      .def(
          "flatten",
          [](const Mesh& mesh_, const std::vector<std::string>& names, const std::string& name) {
            return Mesh{shared(mesh_.get().flatten(names, name))};
          },
          py::arg("names"), py::arg("name"), Run(), "Collective over the whole mesh.")
      .def_property_readonly("dimensions",
                             [](const Mesh& mesh_) {
                               std::vector<std::pair<std::string, int>> all;
                               for (const auto& d : mesh_.get().dimensions())
                                 all.emplace_back(d.name, d.size);
                               return all;
                             })
      .def("size", [](const Mesh& x, const std::string& name) { return x.get().size(name); })
      .def("coordinate",
           [](const Mesh& x, const std::string& name) { return x.get().coordinate(name); })
      .def("group", [](const Mesh& x,
                       const std::string& name) { return Group{shared(x.get().group(name))}; })
      .def("__repr__", [](const Mesh& x) { return str("<DeviceMesh ", x.get().describe(), ">"); });
}

}  // namespace

void bind_comm(py::module_& m) {
  bind_group(m);
  bind_mesh(m);
  m.def("init_process_group", [](const std::string& backend, Seconds timeout,
                                 const std::string& reduction, const py::object& device) {
    const Device there = to_device(device);
    const Released released;
    return init(backend, timeout, reduction, there);
  });
  m.def("detect_rank", [] {
    const launcher::RankEnv rank = launcher::detect_rank();
    return py::make_tuple(rank.rank, rank.size, rank.local_rank, rank.local_size, rank.source);
  });
  m.def("abort_groups", &abort_groups, Run());
  m.def("report_failure", [](const std::string& message, bool by_peer) {
    launcher::report_failure(message, by_peer);
  });
}

}  // namespace lockstep::python
