"""The data that `lockstep train`'s configs name: lockstep.data.Data("configs/kjv_gpt.yaml")."""

from .core import Data

__all__ = ["Data"]
