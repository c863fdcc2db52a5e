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

Section::Section(std::vector<Parameter> parameters, DType wire, const Mesh& mesh,
                 const Owner& owner, const StorageScope::Make& own_memory)
    : parameters_(std::move(parameters)),
      shapes_(shapes_of(parameters_)),
      layout_(numels_of(parameters_), mesh.columns()),
      wire_dtype_(wire),
      trained_(parameters_.front().requires_grad()),
      rank_(mesh.shard->rank()) {
  const DType dtype = parameters_.front().dtype();
  const Device device = parameters_.front().device();
  {
    MemoryScope scope(MemoryCategory::parameters);
    // Other ranks read this memory, so the group allocates it.
    const bool read_by_others = dtype == wire && mesh.columns() > 1;
    std::optional<StorageScope> own;
    if (own_memory) own.emplace(own_memory);
    master_ = read_by_others && !own_memory ? mesh.shard->allocate({layout_.slice()}, dtype)
                                            : Tensor::zeros({layout_.slice()}, dtype, device);
    own.reset();
    wire_ = dtype == wire ? master_ : mesh.shard->allocate({layout_.slice()}, wire);
    if (mesh.nearby) nearby_ = mesh.nearby->allocate({layout_.total() / mesh.nearby->size()}, wire);
  }
  fill_master(mesh);
  for (size_t i = 0; i < parameters_.size(); ++i) shard(i, owner);
  if (mesh.columns() == 1) attach(master_);  // nothing to gather
}

// Turns a parameter into a view of memory that comes and goes.
void Section::shard(size_t i, const Owner& owner) {
  const Parameter& p = parameters_[i];
  const std::string who = str("parameter '", p.name(), "' of unit '", owner.unit, "'");
  const auto absent = [&](DType dtype, std::string why, std::function<void()> bring) {
    return Storage::absent(static_cast<size_t>(shapes_[i].numel() * size_of(dtype)), p.device(),
                           std::move(why), std::move(bring));
  };
  gathered_.push_back(
      absent(wire_dtype_,
             str(who,
                 " of the sharded model is not gathered; read it between the start of the model's "
                 "forward pass and "
                 "the end of backward(), or choose other units (parallel.wrap, Options::wrap)"),
             owner.read));
  // A graph that read these values must not continue with other values.
  gathered_.back()->follow(master_.storage());
  const Tensor gathered = Tensor::wrap(gathered_.back(), shapes_[i], wire_dtype_);
  const DType dtype = master_.dtype();
  p.set_grad_buffer({});
  p.set_initializer({});  // else sharding the model again would undo the training
  if (dtype == wire_dtype_) return p.set_data(gathered);
  // A parameter that is gathered in another dtype never has values in its own dtype.
  unread_.push_back(absent(dtype,
                           str(who, " is gathered in ", wire_dtype_, " and was read in ", dtype,
                               ": read it in products within an ops::PrecisionScope, or leave it "
                               "out of Options::low_precision"),
                           {}));
  unread_.back()->follow(master_.storage());
  p.set_data(Tensor::wrap(unread_.back(), shapes_[i], dtype));
  p.impl()->compute_copy = gathered;
}

Section::~Section() {
  for (const auto& storage : gathered_) storage->retire(std::string(kGone));
  for (const auto& storage : unread_) storage->retire(std::string(kGone));
  for (const Parameter& p : parameters_) {
    const std::string gone = str("[fsdp] parameter '", p.name(), "': ", kGone);
    p.impl()->compute_copy = Tensor();
    p.set_grad_buffer({});
    p.set_grad_source([gone] { throw UsageError(gone); }, gone);
  }
}

void Section::fill_master(const Mesh& mesh) {
  const std::vector<Piece> pieces = layout_.pieces(rank_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    const bool drawn = p.data().storage()->present();
    Tensor whole;
    if (drawn && p.data().numel() > 0) {
      whole = p.data().clone();
      mesh.world->broadcast(whole, 0).wait();
    }
    for (const Piece& piece : pieces) {
      if (piece.parameter != i) continue;
      const Tensor mine = master_.narrow(0, piece.slice_offset, piece.length);
      if (drawn)
        mine.copy_(whole.view({whole.numel()}).narrow(0, piece.parameter_offset, piece.length));
      else  // without memory, each rank draws what it keeps;
            // the bits depend on nothing else
        p.draw_initial(piece.parameter_offset, mine);
    }
  }
}

Tensor Section::view(const Tensor& flat, size_t parameter) const {
  return flat.narrow(0, layout_.offset(parameter), shapes_[parameter].numel())
      .view(shapes_[parameter]);
}

const Tensor& Section::wire() {
  if (std::exchange(wire_is_stale_, false) && wire_dtype_ != master_.dtype()) wire_.copy_(master_);
  return wire_;
}

void Section::hold_values() {
  if (!held_) held_ = version();
}

void Section::master_changed() {
  wire_is_stale_ = true;
  held_.reset();
}

std::string Section::written_parameter() const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const std::shared_ptr<Storage>& own = unread_.empty() ? gathered_[i] : unread_[i];
    if (parameters_[i].data().storage() != own)
      return str("set_data() replaced parameter '", parameters_[i].name(), "'");
    if (gathered_[i]->version() != version())
      return str(gathered_[i]->changed_by(), " changed parameter '", parameters_[i].name(), "'");
  }
  return {};
}

std::string Section::written_slices() const {
  if (!changed()) return {};
  std::string names;
  for (const Piece& piece : layout_.pieces(rank_))
    names += str(names.empty() ? "'" : " or '", parameters_[piece.parameter].name(), "'");
  return str(master_.storage()->changed_by(), " changed this rank's slice of ", names);
}

void Section::attach(const Tensor& gathered, bool until_changed) {
  for (size_t i = 0; i < gathered_.size(); ++i) {
    const auto offset = static_cast<size_t>(layout_.offset(i) * size_of(wire_dtype_));
    if (until_changed)
      gathered_[i]->attach_until_changed(gathered.storage(), offset);
    else
      gathered_[i]->attach(gathered.storage(), offset);
  }
}

void Section::detach() {
  for (const auto& storage : gathered_) storage->detach();
}

void Section::drop_copies() {
  if (wire_dtype_ != master_.dtype()) return;  // the gathered memory is itself the copy
  for (const Parameter& p : parameters_) p.impl()->compute_copy = Tensor();
}

void Section::point_gradients(const Tensor& flat) const {
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_grad_buffer(view(flat, i));
}

void Section::drop_gradients() const {
  for (const Parameter& p : parameters_) p.set_grad_buffer({});
}

void Section::set_grad_source(const std::function<void(const Parameter&)>& provide) const {
  for (const Parameter& p : parameters_)
    p.set_grad_source(
        [provide, impl = std::weak_ptr(p.impl())] { provide(detail::as_parameter(impl.lock())); },
        str("[fsdp] the gradient of parameter '", p.name(),
            "' is spread over the ranks: after finish(), FullyShardedDataParallel::parameters() "
            "has this rank's slices"));
}

std::vector<Section::Shard> Section::shards(const Tensor& gradient) const {
  std::vector<Shard> shards;
  for (const Piece& piece : layout_.pieces(rank_)) {
    const Parameter& whole = parameters_[piece.parameter];
    Parameter shard(whole.name(), master_.narrow(0, piece.slice_offset, piece.length),
                    whole.requires_grad());
    if (gradient.defined())
      shard.set_grad_buffer(gradient.narrow(0, piece.slice_offset, piece.length));
    const ShardSpec spec{shapes_[piece.parameter], piece.parameter_offset, piece.length};
    shard.set_slice_of(spec);
    shards.push_back({piece.parameter, std::move(shard), spec});
  }
  return shards;
}

}  // namespace lockstep::fsdp
