from . import (
    autograd as autograd,
    checkpoint as checkpoint,
    data as data,
    distributed as distributed,
    errors as errors,
    nn as nn,
    optim as optim,
    parallel as parallel,
)
from ._core import (
    Device as Device,
    DType as DType,
    Parameter as Parameter,
    Tensor as Tensor,
    from_dlpack as from_dlpack,
    from_numpy as from_numpy,
    full as full,
    is_grad_enabled as is_grad_enabled,
    tensor as tensor,
)
from .errors import (
    EnvironmentError as EnvironmentError,
    LockstepError as LockstepError,
    TimeoutError as TimeoutError,
    UnsupportedType as UnsupportedType,
    UsageError as UsageError,
)
from .parallel import (
    DistributedDataParallel as DistributedDataParallel,
    FullyShardedDataParallel as FullyShardedDataParallel,
    fully_shard as fully_shard,
)
from .scopes import (
    enable_grad as enable_grad,
    no_grad as no_grad,
    precision as precision,
    random_scope as random_scope,
)
from .tensors import (
    arange as arange,
    cat as cat,
    empty as empty,
    ones as ones,
    stack as stack,
    zeros as zeros,
)

float32: DType
bfloat16: DType
float16: DType
int64: DType
int32: DType
uint8: DType
bool: DType
