from typing import Any, Callable, Iterable, Optional, Union

from ._core import Parameter

Rate = Union[float, Callable[[int], float]]
Decay = Union[str, Callable[[Parameter], bool]]

class Schedule:
    def __init__(
        self,
        kind: str = "constant",
        lr: float = 1e-3,
        min_lr: float = 0.0,
        warmup: int = 0,
        steps: int = 0,
    ) -> None: ...
    def __call__(self, step: int) -> float: ...

class Optimizer:
    lr: Rate
    def step(self, lr: Optional[float] = None, grad_scale: float = 1.0) -> None: ...
    def zero_grad(self) -> None: ...
    @property
    def steps(self) -> int: ...
    @property
    def parameters(self) -> list[Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

class SGD(Optimizer):
    def __init__(
        self,
        params: Iterable[Parameter],
        lr: Rate = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        decay: Decay = "all",
    ) -> None: ...

class Adam(Optimizer):
    def __init__(
        self,
        params: Iterable[Parameter],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay: Decay = "all",
    ) -> None: ...

class AdamW(Optimizer):
    def __init__(
        self,
        params: Iterable[Parameter],
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        decay: Decay = "all",
    ) -> None: ...

def grad_norm(parameters: Iterable[Parameter]) -> float: ...
def clip_scale(norm: float, max_norm: float) -> float: ...
