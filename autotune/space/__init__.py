"""Search spaces: a YAML file (`file`) -> what may be tried here (`compile`, `space`)."""

from autotune.space.compile import baseline, compile_space, complete
from autotune.space.file import SpaceFile, load_space, parse_overrides
from autotune.space.space import Dimension, Space
from autotune.space.surroundings import Surroundings, Value

__all__ = [
    "Dimension",
    "Space",
    "SpaceFile",
    "Surroundings",
    "Value",
    "baseline",
    "compile_space",
    "complete",
    "load_space",
    "parse_overrides",
]
