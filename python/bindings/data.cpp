// lockstep.data: the data sets that configs name.
#include <memory>

#include "python/bindings/bindings.h"
#include "python/bindings/casts.h"
#include "python/bindings/guard.h"
#include "train/config/config.h"
#include "train/data/dataset.h"

namespace lockstep::python {
namespace {

struct Data {
  std::shared_ptr<train::Dataset> data;
  train::Dataset& get() const {
    check(data != nullptr, "[data] use of data that was not opened");
    return *data;
  }
};

std::pair<Variable, Variable> pair_of(const train::Batch& batch) {
  return {Variable(batch.inputs), Variable(batch.targets)};
}

}  // namespace

void bind_data(py::module_& m) {
  py::class_<Data> data(m, "Data", "Micro-batches of a config's data, the same on every rank.");
  zero_unconstructed(data);
  data.def(py::init([](const std::string& config, const std::vector<std::string>& overrides) {
             return Data{train::open_dataset(train::load_config(config, overrides))};
           }),
           py::arg("config"), py::arg("overrides") = std::vector<std::string>(), Run())
      .def(
          "get",
          [](const Data& d, int64_t step, int64_t micro) {
            check(
                step >= 1 && micro >= 0 && step < (int64_t{1} << 31) && micro < (int64_t{1} << 31),
                "[data] steps count from 1 and micro-batches from 0, got ", step, " and ", micro);
            return pair_of(d.get().get(step, micro));
          },
          py::arg("step"), py::arg("micro_batch"), Run(),
          "Inputs and targets of a micro-batch, counted over all ranks, of a step, counted from 1.")
      .def(
          "evaluation",
          [](const Data& d, int64_t index) {
            check(index >= 0 && index < (int64_t{1} << 31),
                  "[data] expected an index of 0 or more");
            return pair_of(d.get().evaluation(index));
          },
          py::arg("index"), Run());
}

}  // namespace lockstep::python
