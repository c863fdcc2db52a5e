// Section: the parameters of a unit that lie in one flat buffer – of one dtype, gathered in one
// dtype, all trained or all frozen – and where their values are.
//
// Each rank of a row owns a slice of the values for good, the master. The parameters' own tensors
// view the whole buffer. Its memory comes when the unit is gathered and goes when it is released.
// Reading a parameter in between asks for it; where it does not come, the read throws and names
// parameter and unit.
//
// Gradients have a place only while the unit is differentiated (Reducer). At other times a
// parameter's grad() and has_grad() throw, and name the slices that have its gradient.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/autograd/variable.h"
#include "core/tensor/shard_spec.h"
#include "fsdp/layout.h"
#include "fsdp/mesh.h"

namespace lockstep::fsdp {

// What is said of a model whose FullyShardedDataParallel is gone.
inline constexpr std::string_view kGone =
    "the FullyShardedDataParallel that sharded this model was destroyed: keep it for as long as "
    "the model is used, or build the model anew";

// A section's unit, as its parameters see it.
struct Owner {
  std::string unit;            // its name
  std::function<void()> read;  // a parameter is read that is not here: may gather the unit
};

class Section {
 public:
  // Collective over the mesh: world rank 0's values count. Where a parameter was built without
  // memory (nn::DeferredInit), each rank draws the initial values of its slice. From here on the
  // parameters are sharded. `wire`: the dtype in which they are gathered; another one than their
  // own means that they are read in that dtype only. `own_memory`: where the master lies; empty: in
  // memory that suits the group.
  Section(std::vector<Parameter> parameters, DType wire, const Mesh& mesh, const Owner& owner,
          const StorageScope::Make& own_memory = {});
  // Reading the parameters, and differentiating them, throws from here on.
  ~Section();
  Section(const Section&) = delete;
  Section& operator=(const Section&) = delete;

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const FlatLayout& layout() const { return layout_; }
  // Whether the parameters were trained when they were sharded.
  bool trained() const { return trained_; }
  DType wire_dtype() const { return wire_dtype_; }

  // This rank's slice of the values, [slice], in the parameters' dtype.
  const Tensor& master() const { return master_; }
  // The same as it travels; converted anew after the master changed.
  const Tensor& wire();
  // The values are about to be used: they must stay as they are until master_changed().
  void hold_values();
  // Whether the master has changed since.
  bool changed() const { return held_ && *held_ != version(); }
  // The master may have changed: what follows uses its values of then.
  void master_changed();
  // What somebody did to values that are in use, for messages; empty: nothing. Of the parameters'
  // own tensors, which hold copies, and of the master.
  std::string written_parameter() const;
  std::string written_slices() const;
  // This rank's slice among mesh.nearby's ranks, [total / nearby] as it travels; undefined where
  // there is no such group.
  const Tensor& nearby() const { return nearby_; }

  // The whole buffer, [total] in the wire dtype, is (not) what the parameters view.
  // `until_changed`: at most until the master changes.
  void attach(const Tensor& gathered, bool until_changed = false);
  void detach();
  // Copies that a PrecisionScope made of the gathered values would outlive them, and make the whole
  // model stay.
  void drop_copies();

  // Points the parameters' gradients into `flat`, f32 [total]; they hold no gradient yet.
  void point_gradients(const Tensor& flat) const;
  // Takes that place away, with what it holds.
  void drop_gradients() const;
  // `provide` runs when a gradient arrives that has no place: it calls point_gradients(), or
  // throws.
  void set_grad_source(const std::function<void(const Parameter&)>& provide) const;

  // What this rank owns, as parameters of their own (flat, under the same names), for optimizer and
  // checkpoint. Their gradients are views of `gradient`, f32 [slice], which may be undefined for
  // frozen ones.
  struct Shard {
    size_t parameter;
    Parameter values;
    ShardSpec spec;
  };
  std::vector<Shard> shards(const Tensor& gradient) const;

 private:
  void fill_master(const Mesh& mesh);
  void shard(size_t parameter, const Owner& owner);
  uint64_t version() const { return master_.storage()->version(); }
  Tensor view(const Tensor& flat, size_t parameter) const;

  std::vector<Parameter> parameters_;
  std::vector<Shape> shapes_;
  FlatLayout layout_;
  DType wire_dtype_;
  bool trained_;
  int rank_;  // in the row
  Tensor master_, wire_, nearby_;
  bool wire_is_stale_ = true;
  std::optional<uint64_t> held_;  // version() of the values in use
  std::vector<std::shared_ptr<Storage>>
      gathered_;  // what each parameter views, of the whole buffer
  std::vector<std::shared_ptr<Storage>>
      unread_;  // where `wire` is another dtype: the values in their own
};

}  // namespace lockstep::fsdp
