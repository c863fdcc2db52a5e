// Section: the parameters of a unit that share one flat buffer (with one dtype, gathered in one
// dtype, all trained or all frozen), and where their values are.
//
// Each rank of a row permanently owns a slice of the values, the master. The parameters' own
// tensors view the whole buffer. Its memory appears when the unit is gathered and disappears when
// it is released. Reading a parameter in between asks for the memory. If it does not come, the read
// throws and names parameter and unit.
//
// Gradients have memory only while the unit is differentiated (Reducer). At other times a
// parameter's grad() and has_grad() throw and name the slices that hold its gradient.
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

// The message for a model whose FullyShardedDataParallel is gone.
inline constexpr std::string_view kGone =
    "the FullyShardedDataParallel that sharded this model was destroyed: keep it for as long as "
    "the model is used, or build the model anew";

// The unit of a section, as its parameters see it.
struct Owner {
  std::string unit;            // the name of the unit
  std::function<void()> read;  // an absent parameter is read: may gather the unit
};

class Section {
 public:
  // Collective over the mesh: world rank 0's values count. If a parameter was built without memory
  // (nn::DeferredInit), each rank draws the initial values of its slice. The parameters are sharded
  // from here on. `wire`: the dtype in which they are gathered; if it is not their own, they can be
  // read in that dtype only. `own_memory`: allocates the master; empty: memory that suits the
  // group.
  Section(std::vector<Parameter> parameters, DType wire, const Mesh& mesh, const Owner& owner,
          const StorageScope::Make& own_memory = {});
  // From here on, reading the parameters and differentiating them throws.
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
  // The same in the wire dtype; converted again after the master changed.
  const Tensor& wire();
  // The values will be used now: they must not change until master_changed().
  void hold_values();
  // Whether the master has changed since.
  bool changed() const { return held_ && *held_ != version(); }
  // The master may have changed: later uses take its new values.
  void master_changed();
  // Describes forbidden writes to values in use, for messages; empty if there were none. The first
  // one looks at the parameters' own tensors, which are copies, the second one at the master.
  std::string written_parameter() const;
  std::string written_slices() const;
  // This rank's slice among mesh.nearby's ranks, [total / nearby] in the wire dtype. Undefined if
  // there is no such group.
  const Tensor& nearby() const { return nearby_; }

  // Lets the parameters view the whole buffer, [total] in the wire dtype, or ends that.
  // `until_changed`: at most until the master changes.
  void attach(const Tensor& gathered, bool until_changed = false);
  void detach();
  // Drops the copies that a PrecisionScope made of gathered values: they would outlive these and
  // keep the whole model in memory.
  void drop_copies();

  // Points the parameters' gradients into `flat`, f32 [total]. They hold no gradient yet.
  void point_gradients(const Tensor& flat) const;
  // Takes that memory away, with its contents.
  void drop_gradients() const;
  // `provide` runs when a gradient arrives without memory. It calls point_gradients() or
  // throws.
  void set_grad_source(const std::function<void(const Parameter&)>& provide) const;

  // What this rank owns, as separate flat parameters with the same names, for optimizer and
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
  int rank_;  // rank in the row
  Tensor master_, wire_, nearby_;
  bool wire_is_stale_ = true;
  std::optional<uint64_t> held_;                    // version() of the values in use
  std::vector<std::shared_ptr<Storage>> gathered_;  // what each parameter views of the whole buffer
  std::vector<std::shared_ptr<Storage>>
      unread_;  // if `wire` is another dtype: the parameters' values in their own dtype
};

}  // namespace lockstep::fsdp
