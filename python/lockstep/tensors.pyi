from typing import Optional, Sequence, Union

from ._core import Device, DType, Tensor

def zeros(
    *size: Union[int, Sequence[int]],
    dtype: DType = ...,
    device: Union[str, Device] = "cpu",
    requires_grad: bool = False,
) -> Tensor: ...
def ones(
    *size: Union[int, Sequence[int]],
    dtype: DType = ...,
    device: Union[str, Device] = "cpu",
    requires_grad: bool = False,
) -> Tensor: ...
def empty(
    *size: Union[int, Sequence[int]],
    dtype: DType = ...,
    device: Union[str, Device] = "cpu",
    requires_grad: bool = False,
) -> Tensor: ...
def arange(
    start: int,
    end: Optional[int] = None,
    step: int = 1,
    dtype: DType = ...,
    device: Union[str, Device] = "cpu",
) -> Tensor: ...
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor: ...
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor: ...
