// PyTorch's tensors as lockstep's: the same memory where the layout allows it, else a copy.
#pragma once

#include <ostream>
#include <string_view>
#include <vector>

#include <ATen/ATen.h>

#include "core/tensor/tensor.h"

namespace lockstep::pytorch {

// Reads and writes values alone: neither autograd nor version counters see them. For one scope.
using ValuesOnly = at::AutoDispatchBelowADInplaceOrView;

// For messages: "Float", and "[2, 3]". Plain types, as c10's own would make str() ambiguous.
inline const char* name_of(at::ScalarType type) { return c10::toString(type); }
struct ShapeOf {
  const at::Tensor& tensor;
};
inline std::ostream& operator<<(std::ostream& out, const ShapeOf& shape) {
  return out << shape.tensor.sizes();
}

// Throws unless a collective can move `tensor`: dense, on the CPU, of a known type. UnsupportedType
// names the type and says what to convert to. `op`: "all_reduce"; `role`: "input tensor".
void check_tensor(const at::Tensor& tensor, std::string_view op, std::string_view role);

// Throws UsageError unless both have one type.
void check_same_type(const at::Tensor& a, const at::Tensor& b, std::string_view op);

// The list's one tensor. c10d's lists have one place for each device of a rank.
at::Tensor only(const std::vector<at::Tensor>& tensors, std::string_view op, std::string_view role);
const std::vector<at::Tensor>& only(const std::vector<std::vector<at::Tensor>>& lists,
                                    std::string_view op, std::string_view role);

// Whether lockstep has the type. Others travel as bytes.
bool is_native(at::ScalarType type);

// Whether the values lie one after the other in logical order.
bool is_plain(const at::Tensor& tensor);
// `tensor` itself where it is plain, else a plain copy.
at::Tensor plain(const at::Tensor& tensor);
// Plain memory for the same values, contents undefined: `tensor` itself where it is plain.
at::Tensor plain_like(const at::Tensor& tensor);
// Copies `from`, which plain() or plain_like() gave, back; nothing where it is `to` itself.
void copy_back(const at::Tensor& to, const at::Tensor& from);

// One flat plain tensor that holds these tensors' memory in order; undefined where there is none.
at::Tensor joined_in_place(const std::vector<at::Tensor>& tensors);

// The memory of a plain tensor, flat: elements of a native type, or bytes. Keeps it alive.
Tensor wrap(const at::Tensor& tensor);

}  // namespace lockstep::pytorch
