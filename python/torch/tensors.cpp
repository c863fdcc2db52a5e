#include "python/torch/tensors.h"

#include <optional>
#include <sstream>

#include "python/torch/errors.h"

namespace lockstep::pytorch {
namespace {

std::optional<DType> native_type(at::ScalarType type) {
  switch (type) {
    case at::kFloat: return DType::f32;
    case at::kBFloat16: return DType::bf16;
    case at::kHalf: return DType::f16;
    case at::kLong: return DType::i64;
    case at::kInt: return DType::i32;
    case at::kByte: return DType::u8;
    case at::kBool: return DType::boolean;
    default: return std::nullopt;
  }
}

bool is_known(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
    case at::kShort:
    case at::kChar:
    case at::kComplexFloat:
    case at::kComplexDouble: return true;
    default: return is_native(type);
  }
}

}  // namespace

void check_tensor(const at::Tensor& tensor, std::string_view op, std::string_view role) {
  check(tensor.defined(), "[torch] ", op, ": the ", role, " is undefined");
  if (tensor.layout() != at::kStrided) {
    std::ostringstream layout;
    layout << tensor.layout();
    throw UnsupportedType(str("[torch] ", op, ": the ", role, " must be dense, got layout ",
                              layout.str(), "; call .to_dense() first"));
  }
  if (!tensor.device().is_cpu())
    throw UnsupportedType(str("[torch] ", op, ": the ", role, " must be on the CPU, got device ",
                              tensor.device().str(), "; call .cpu() first"));
  if (!is_known(tensor.scalar_type()))
    throw UnsupportedType(str("[torch] ", op, ": the ", role, " has type ",
                              name_of(tensor.scalar_type()),
                              ", which no collective takes; convert it to one of float32, "
                              "float64, bfloat16, float16, int64, int32, int16, int8, uint8, "
                              "bool, complex64, complex128"));
}

void check_same_type(const at::Tensor& a, const at::Tensor& b, std::string_view op) {
  if (a.scalar_type() != b.scalar_type())
    throw UnsupportedType(str("[torch] ", op, ": all tensors must have one type, got ",
                              name_of(a.scalar_type()), " and ", name_of(b.scalar_type())));
}

at::Tensor only(const std::vector<at::Tensor>& tensors, std::string_view op,
                std::string_view role) {
  check(tensors.size() == 1, "[torch] ", op, ": expected one ", role, " a rank, got ",
        tensors.size(), "; make one call for each tensor");
  check_tensor(tensors[0], op, role);
  return tensors[0];
}

const std::vector<at::Tensor>& only(const std::vector<std::vector<at::Tensor>>& lists,
                                    std::string_view op, std::string_view role) {
  check(lists.size() == 1, "[torch] ", op, ": expected one list of ", role, "s a rank, got ",
        lists.size());
  for (const at::Tensor& tensor : lists[0]) check_tensor(tensor, op, role);
  return lists[0];
}

bool is_native(at::ScalarType type) { return native_type(type).has_value(); }

bool is_plain(const at::Tensor& tensor) {
  return tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg();
}

at::Tensor plain(const at::Tensor& tensor) {
  if (is_plain(tensor)) return tensor;
  const ValuesOnly guard;
  return tensor.resolve_conj().resolve_neg().clone(at::MemoryFormat::Contiguous);
}

at::Tensor plain_like(const at::Tensor& tensor) {
  if (is_plain(tensor)) return tensor;
  const ValuesOnly guard;
  return at::empty(tensor.sizes(), tensor.options());
}

void copy_back(const at::Tensor& to, const at::Tensor& from) {
  if (to.is_same(from)) return;
  const ValuesOnly guard;
  to.copy_(from);
}

at::Tensor joined_in_place(const std::vector<at::Tensor>& tensors) {
  const ValuesOnly guard;
  const at::Tensor& first = tensors[0];
  int64_t elements = 0;
  for (const at::Tensor& tensor : tensors) {
    if (!is_plain(tensor) || !tensor.is_alias_of(first) || tensor.dtype() != first.dtype() ||
        tensor.storage_offset() != first.storage_offset() + elements)
      return {};
    elements += tensor.numel();
  }
  return first.as_strided({elements}, {1});
}

Tensor wrap(const at::Tensor& tensor) {
  const auto type = native_type(tensor.scalar_type());
  const auto bytes = static_cast<int64_t>(tensor.nbytes());
  const auto memory =
      std::make_shared<Storage>(tensor.data_ptr(), static_cast<size_t>(bytes), kCpu,
                                [held = at::Tensor(tensor)]() mutable { held.reset(); });
  return Tensor::wrap(memory, {type ? tensor.numel() : bytes}, type.value_or(DType::u8));
}

}  // namespace lockstep::pytorch
