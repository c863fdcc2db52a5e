// lockstep.checkpoint: saving, saving in the background, and loading of sharded state.
#include "checkpoint/checkpoint.h"

#include <map>
#include <optional>

#include "checkpoint/save/saver.h"
#include "core/optim/optimizer.h"
#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/group.h"
#include "python/bindings/guard.h"

namespace lockstep::python {
namespace {

using checkpoint::Entry;
using Entries = std::vector<Entry>;
using Metadata = std::map<std::string, std::string>;
using MaybeGroup = std::optional<Group>;

comm::ProcessGroup* group_of(const MaybeGroup& group) {
  return group ? &group->get("checkpoint") : nullptr;
}

std::string save(const std::string& dir, int64_t step, const Entries& entries,
                 const Metadata& metadata, int64_t keep, const MaybeGroup& group) {
  return checkpoint::save({.dir = dir,
                           .step = step,
                           .entries = entries,
                           .metadata = metadata,
                           .keep = keep,
                           .group = group_of(group)});
}

using Loaded = std::tuple<std::string, int64_t, Metadata, std::vector<std::string>>;

std::optional<Loaded> load_latest(const std::string& dir, const Entries& entries,
                                  const MaybeGroup& group) {
  const checkpoint::Restored found = checkpoint::restore_latest(dir, entries, group_of(group));
  if (!found.checkpoint) return std::nullopt;
  return Loaded{found.checkpoint->folder(), found.checkpoint->step(), found.checkpoint->metadata(),
                found.skipped};
}

Loaded load_folder(const std::string& folder, const Entries& entries) {
  const auto opened = checkpoint::Checkpoint::open(folder);
  opened.read(entries);
  return {opened.folder(), opened.step(), opened.metadata(), {}};
}

// The states of an optimizer are cut as its parameters are.
Entries optimizer_entries(const optim::Optimizer& optimizer) {
  std::map<std::string, ShardSpec> slices;
  for (const Parameter& p : optimizer.parameters()) slices.emplace(p.name(), p.slice());
  Entries entries;
  for (const auto& [name, values] : optimizer.state())
    entries.emplace_back("optim." + name, values, slices.at(name.substr(name.find('.') + 1)));
  return entries;
}

// A Saver and the group that it was split from.
struct Background {
  MaybeGroup group;
  std::shared_ptr<checkpoint::Saver> saver;

  checkpoint::Saver& get() const {
    check(saver != nullptr, "[checkpoint] the saver is closed");
    return *saver;
  }
};

using Outcome = std::optional<std::tuple<int64_t, std::string, std::string, double>>;
Outcome outcome_of(const std::optional<checkpoint::SaveOutcome>& ended) {
  if (!ended) return std::nullopt;
  return std::tuple(ended->step, ended->folder, ended->error, seconds(ended->duration));
}

}  // namespace

void bind_checkpoint(py::module_& m) {
  py::class_<Entry>(m, "Entry", "A rank's part of one named tensor.")
      .def(py::init([](const std::string& name, const Variable& values) {
        return Entry(name, values.data());
      }))
      .def_readonly("name", &Entry::name)
      .def_property_readonly("tensor", [](const Entry& e) { return Variable(e.tensor); })
      .def("__repr__", [](const Entry& e) { return str("<Entry '", e.name, "': ", e.shard, ">"); });
  m.def("save_checkpoint", &save, Run());
  m.def("load_latest", &load_latest, Run());
  m.def("load_folder", &load_folder, Run());
  m.def("optimizer_entries", &optimizer_entries);
  py::class_<Background> saver(m, "Saver");
  zero_unconstructed(saver);
  saver
      .def(py::init([](const std::string& dir, int64_t keep, const MaybeGroup& group) {
             return Background{group, std::make_shared<checkpoint::Saver>(checkpoint::SaverOptions{
                                          .dir = dir, .keep = keep, .group = group_of(group)})};
           }),
           Run())
      .def(
          "start",
          [](const Background& b, int64_t step, const Entries& entries, const Metadata& metadata) {
            b.get().start(step, entries, metadata);
          },
          Run())
      .def("busy", [](const Background& b) { return b.get().busy(); })
      .def("poll", [](const Background& b) { return outcome_of(b.get().poll()); })
      .def(
          "wait", [](const Background& b) { return outcome_of(b.get().wait()); }, Run())
      .def(
          "close", [](Background& b) { b.saver.reset(); }, Run());
}

}  // namespace lockstep::python
