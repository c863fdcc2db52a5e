import os
from typing import Any, Mapping, Optional, TypeVar, Union

from ._core import Entry as Entry
from ._core import ProcessGroup, Tensor
from .nn.module import Module
from .optim import Optimizer
from .parallel import _Wrapper

Path = Union[str, os.PathLike[str]]
Model = Union[Module, _Wrapper, Mapping[str, Tensor]]
_S = TypeVar("_S", bound=Saver)

def save(
    dir: Path,
    step: int,
    model: Model,
    optimizer: Optional[Optimizer] = None,
    metadata: Optional[Mapping[str, str]] = None,
    keep: int = 0,
    group: Optional[ProcessGroup] = None,
) -> str: ...
def load_latest(
    dir: Path,
    model: Model,
    optimizer: Optional[Optimizer] = None,
    group: Optional[ProcessGroup] = None,
) -> Optional[dict[str, Any]]: ...
def load(folder: Path, model: Model, optimizer: Optional[Optimizer] = None) -> dict[str, Any]: ...

class Saver:
    def __init__(
        self, dir: Path, keep: int = 0, group: Optional[ProcessGroup] = None
    ) -> None: ...
    def start(
        self,
        step: int,
        model: Model,
        optimizer: Optional[Optimizer] = None,
        metadata: Optional[Mapping[str, str]] = None,
    ) -> None: ...
    def busy(self) -> bool: ...
    def poll(self) -> Optional[dict[str, Any]]: ...
    def wait(self) -> Optional[dict[str, Any]]: ...
    def close(self) -> None: ...
    def __enter__(self: _S) -> _S: ...
    def __exit__(self, *error: object) -> None: ...
