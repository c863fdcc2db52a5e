#include "python/torch/reduction.h"

#include "comm/reduce/reduce_tree.h"
#include "python/torch/errors.h"
#include "python/torch/tensors.h"

namespace lockstep::pytorch {
namespace {

bool is_half(at::ScalarType type) { return type == at::kHalf || type == at::kBFloat16; }

Reduction named(const c10d::ReduceOp& op, std::string_view name) {
  switch (static_cast<c10d::ReduceOp::RedOpType>(op)) {
    case c10d::ReduceOp::SUM: return {comm::ReduceOp::sum};
    case c10d::ReduceOp::AVG: return {comm::ReduceOp::sum, true};
    case c10d::ReduceOp::PRODUCT: return {comm::ReduceOp::product};
    case c10d::ReduceOp::MIN: return {comm::ReduceOp::min};
    case c10d::ReduceOp::MAX: return {comm::ReduceOp::max};
    case c10d::ReduceOp::BAND: return {comm::ReduceOp::band};
    case c10d::ReduceOp::BOR: return {comm::ReduceOp::bor};
    case c10d::ReduceOp::BXOR: return {comm::ReduceOp::bxor};
    case c10d::ReduceOp::PREMUL_SUM:
      throw UsageError(str("[torch] ", name, ": the lockstep backend has no PREMUL_SUM; multiply ",
                           "the tensor first and use ReduceOp.SUM"));
    default:
      throw UsageError(str("[torch] ", name, ": unknown reduce operation ",
                           static_cast<int>(static_cast<c10d::ReduceOp::RedOpType>(op))));
  }
}

bool is_bitwise(comm::ReduceOp op) {
  return op == comm::ReduceOp::band || op == comm::ReduceOp::bor || op == comm::ReduceOp::bxor;
}

double combine(comm::ReduceOp op, double a, double b) {
  switch (op) {
    case comm::ReduceOp::product: return a * b;
    // A NaN wins, whichever side it is on.
    case comm::ReduceOp::min: return (a < b || a != a) ? a : b;
    case comm::ReduceOp::max: return (a > b || a != a) ? a : b;
    default: return a + b;
  }
}

}  // namespace

Reduction reduction_of(const c10d::ReduceOp& op, at::ScalarType type, std::string_view name) {
  const Reduction reduction = named(op, name);
  const bool whole = at::isIntegralType(type, /*includeBool=*/true);
  if (is_bitwise(reduction.op) && !whole)
    throw UnsupportedType(str("[torch] ", name, ": ", comm::name_of(reduction.op),
                              " needs integers or bool, got ", name_of(type)));
  if (reduction.average && whole)
    throw UnsupportedType(str("[torch] ", name, ": an average needs a floating-point type, got ",
                              name_of(type), "; use ReduceOp.SUM and divide"));
  if (at::isComplexType(type) && reduction.op != comm::ReduceOp::sum)
    throw UnsupportedType(str("[torch] ", name, ": complex numbers have sum and avg only, got ",
                              comm::name_of(reduction.op)));
  return reduction;
}

bool reduces_natively(at::ScalarType type) {
  return type != at::kDouble && type != at::kComplexDouble;
}

at::Tensor to_carrier(const at::Tensor& tensor, const Reduction& reduction) {
  const ValuesOnly guard;
  const at::ScalarType type = tensor.scalar_type();
  if (at::isComplexType(type)) return at::view_as_real(plain(tensor));
  if (type == at::kChar || type == at::kShort) return tensor.to(at::kInt).contiguous();
  if (reduction.average && is_half(type)) return tensor.to(at::kFloat).contiguous();
  return plain(tensor);
}

void from_carrier(const at::Tensor& tensor, const at::Tensor& carrier, const Reduction& reduction,
                  int ranks) {
  const ValuesOnly guard;
  if (reduction.average) carrier.div_(ranks);
  if (carrier.is_same(tensor)) return;
  auto sizes = tensor.sizes().vec();
  if (!at::isComplexType(tensor.scalar_type())) {
    tensor.copy_(carrier.view(sizes));
    return;
  }
  sizes.push_back(2);
  const at::Tensor values = at::view_as_complex(carrier.view(sizes));
  if (!values.is_alias_of(tensor)) tensor.copy_(values);
}

at::Tensor reduce_rows(const at::Tensor& rows, const Reduction& reduction) {
  const comm::ReduceTree tree(static_cast<int>(rows.size(0)));
  const int64_t n = rows.size(1);
  auto* const values = rows.data_ptr<double>();
  for (const auto [left, right] : tree.steps()) {
    double* const a = values + left * n;
    const double* const b = values + right * n;
    for (int64_t i = 0; i < n; ++i) a[i] = combine(reduction.op, a[i], b[i]);
  }
  const ValuesOnly guard;
  return rows.select(0, 0);
}

}  // namespace lockstep::pytorch
