// Section: the parameters of a unit that lie in one flat buffer – of one dtype, gathered in one dtype, all trained or all frozen –
// and where their values are.
//
// Each rank of a row owns a slice of the values for good, the master. The parameters' own tensors are views of the whole buffer,
// whose memory comes when the unit is gathered and goes when it is released: reading a parameter in between throws and says so.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/autograd/variable.h"
#include "core/tensor/shard_spec.h"
#include "fsdp/layout.h"
#include "fsdp/mesh.h"

namespace lockstep::fsdp {

class Section {
 public:
  // Collective over the mesh: world rank 0's values count, or, where the model was built without memory (nn::DeferredInit), the
  // initial values that each rank draws for its slice. From here on the parameters are sharded. `wire`: the dtype in which they
  // are gathered; another one than their own means that they are read in that dtype only. `own_memory`: where the master lies;
  // empty: in memory that suits the group.
  Section(std::vector<Parameter> parameters, DType wire, const Mesh& mesh, const std::string& unit,
          const StorageScope::Make& own_memory = {});
  Section(const Section&) = delete;
  Section& operator=(const Section&) = delete;

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const FlatLayout& layout() const { return layout_; }
  bool trained() const { return parameters_.front().requires_grad(); }
  DType wire_dtype() const { return wire_dtype_; }

  // This rank's slice of the values, [slice], in the parameters' dtype.
  const Tensor& master() const { return master_; }
  // The same as it travels; converted anew after the master changed.
  const Tensor& wire();
  void master_changed() { wire_is_stale_ = true; }
  // This rank's slice among mesh.nearby's ranks, [total / nearby] as it travels; undefined where there is no such group.
  const Tensor& nearby() const { return nearby_; }

  // The whole buffer, [total] in the wire dtype, is (not) there.
  void attach(const Tensor& gathered);
  void detach();

  // Points the parameters' gradients into `flat`, f32 [total]; they hold no gradient yet.
  void point_gradients(const Tensor& flat) const;

  // What this rank owns, as parameters of their own (flat, under the same names), for optimizer and checkpoint. Their gradients
  // are views of `gradient`, f32 [slice], which may be undefined for frozen ones.
  struct Shard {
    size_t parameter;
    Parameter values;
    ShardSpec spec;
  };
  std::vector<Shard> shards(const Tensor& gradient) const;

 private:
  void fill_master(const Mesh& mesh);
  Tensor view(const Tensor& flat, size_t parameter) const;

  std::vector<Parameter> parameters_;
  std::vector<Shape> shapes_;
  FlatLayout layout_;
  DType wire_dtype_;
  int rank_;  // in the row
  Tensor master_, wire_, nearby_;
  bool wire_is_stale_ = true;
  std::shared_ptr<Storage> gathered_;  // what the parameters view
};

}  // namespace lockstep::fsdp
