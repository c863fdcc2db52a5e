from ._core import Data as Data
