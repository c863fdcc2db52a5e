#include "fsdp/section.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/autograd/node.h"
#include "core/device/allocator.h"

namespace lockstep::fsdp {
namespace {

std::vector<int64_t> numels_of(const std::vector<Parameter>& parameters) {
  std::vector<int64_t> numels;
  for (const Parameter& p : parameters) numels.push_back(p.data().numel());
  return numels;
}

std::vector<Shape> shapes_of(const std::vector<Parameter>& parameters) {
  std::vector<Shape> shapes;
  for (const Parameter& p : parameters) shapes.push_back(p.shape());
  return shapes;
}

}  // namespace

Section::Section(std::vector<Parameter> parameters, DType wire, const Mesh& mesh, const std::string& unit,
                 const StorageScope::Make& own_memory)
    : parameters_(std::move(parameters)),
      shapes_(shapes_of(parameters_)),
      layout_(numels_of(parameters_), mesh.columns()),
      wire_dtype_(wire),
      rank_(mesh.shard->rank()) {
  const DType dtype = parameters_.front().dtype();
  const Device device = parameters_.front().device();
  {
    MemoryScope scope(MemoryCategory::parameters);
    // What the others read lies in memory that suits the group.
    const bool read_by_others = dtype == wire && mesh.columns() > 1;
    std::optional<StorageScope> own;
    if (own_memory) own.emplace(own_memory);
    master_ =
        read_by_others && !own_memory ? mesh.shard->allocate({layout_.slice()}, dtype) : Tensor::zeros({layout_.slice()}, dtype, device);
    own.reset();
    wire_ = dtype == wire ? master_ : mesh.shard->allocate({layout_.slice()}, wire);
    if (mesh.nearby) nearby_ = mesh.nearby->allocate({layout_.total() / mesh.nearby->size()}, wire);
  }
  fill_master(mesh);
  const auto bytes = [&](DType d) { return static_cast<size_t>(layout_.total() * size_of(d)); };
  gathered_ = Storage::absent(bytes(wire), device,
                              str("unit '", unit,
                                  "' of the sharded model is not gathered; read its parameters in its module's forward(), or choose other "
                                  "units (parallel.wrap, Options::wrap)"));
  const Tensor gathered = Tensor::wrap(gathered_, {layout_.total()}, wire);
  // Of parameters that are gathered in another dtype, the values in their own are never there.
  const Tensor values = dtype == wire ? gathered
                                      : Tensor::wrap(Storage::absent(bytes(dtype), device, str("unit '", unit, "' is gathered in ", wire)),
                                                     {layout_.total()}, dtype);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (parameters_[i].requires_grad()) parameters_[i].set_grad_buffer({});
    parameters_[i].set_data(view(values, i));
    parameters_[i].set_initializer({});  // it would undo the training where the model is sharded a second time
    if (dtype != wire) parameters_[i].impl()->compute_copy = view(gathered, i);
  }
  if (mesh.columns() == 1) attach(master_);  // nothing to gather
}

void Section::fill_master(const Mesh& mesh) {
  const bool drawn = std::all_of(parameters_.begin(), parameters_.end(), [](const Parameter& p) { return p.data().storage()->present(); });
  if (!drawn) {  // the model has no memory: each rank draws what it keeps, the bits of which depend on nothing else
    for (const Piece& piece : layout_.pieces(rank_))
      parameters_[piece.parameter].draw_initial(piece.parameter_offset, master_.narrow(0, piece.slice_offset, piece.length));
    return;
  }
  const Tensor whole = Tensor::zeros({layout_.total()}, master_.dtype(), master_.device());
  for (size_t i = 0; i < parameters_.size(); ++i) view(whole, i).copy_(parameters_[i].data());
  mesh.world->broadcast(whole, 0).wait();
  master_.copy_(whole.narrow(0, layout_.slice() * rank_, layout_.slice()));
}

Tensor Section::view(const Tensor& flat, size_t parameter) const {
  return flat.narrow(0, layout_.offset(parameter), shapes_[parameter].numel()).view(shapes_[parameter]);
}

const Tensor& Section::wire() {
  if (std::exchange(wire_is_stale_, false) && wire_dtype_ != master_.dtype()) wire_.copy_(master_);
  return wire_;
}

void Section::attach(const Tensor& gathered) { gathered_->attach(gathered.storage()); }

void Section::detach() {
  gathered_->detach();
  // Copies that a PrecisionScope made of the gathered values would outlive them, and make the whole model stay.
  if (wire_dtype_ == master_.dtype())
    for (const Parameter& p : parameters_) p.impl()->compute_copy = Tensor();
}

void Section::point_gradients(const Tensor& flat) const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Tensor target = view(flat, i);
    // Only where it changes: a gradient that sits in one place is pointed there once.
    if (parameters_[i].grad_buffer().defined() && parameters_[i].grad_buffer().raw() == target.raw())
      parameters_[i].zero_grad();
    else
      parameters_[i].set_grad_buffer(std::move(target));
  }
}

std::vector<Section::Shard> Section::shards(const Tensor& gradient) const {
  std::vector<Shard> shards;
  for (const Piece& piece : layout_.pieces(rank_)) {
    const Parameter& whole = parameters_[piece.parameter];
    Parameter shard(whole.name(), master_.narrow(0, piece.slice_offset, piece.length), whole.requires_grad());
    if (gradient.defined()) shard.set_grad_buffer(gradient.narrow(0, piece.slice_offset, piece.length));
    shards.push_back({piece.parameter, std::move(shard), {shapes_[piece.parameter], piece.parameter_offset, piece.length}});
  }
  return shards;
}

}  // namespace lockstep::fsdp
