"""Search spaces: read a YAML file (`file`) and turn it into a space of this host (`compile`)."""

from autotune.space.compile import baseline, by_length, compile_space, complete, dynamic_baseline
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
    "by_length",
    "compile_space",
    "complete",
    "dynamic_baseline",
    "load_space",
    "parse_overrides",
]
