"""The arrays of a task: what goes into a model, what comes out, and along which axes.

Both programs use these declarations. Batching, padding, exports and comparisons read them, and know
nothing else of what an array means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

BATCH = "batch"
"""The axis of the rows: always an array's first."""
WIDTH = "width"
"""The axis along which rows have different lengths, such as tokens or frames. Rows of one batch are
padded to one width."""

Axes = tuple[str, ...]
"""The names of an array's axes, in order. The size of axes other than BATCH and WIDTH is fixed."""

OLDER_NAMES = {"token": f"{BATCH} {WIDTH}", "feature": BATCH}
"""How runs of older versions wrote the axes of an output."""


def axes_of(declared: str) -> Axes:
    """The axes that a text such as `"batch width"` declares."""
    return tuple(OLDER_NAMES.get(declared, declared).split())


def output_axes(outputs: Mapping[str, str]) -> dict[str, Axes]:
    """Output -> its leading axes. More axes may follow, whose size is the model's."""
    return {name: axes_of(declared) for name, declared in outputs.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputArray:
    """An array that the model takes.

    `pad` is the value of padding, where the array has a WIDTH. `real` is the value of every place
    that is not padding, if that is one value: a mask. None: each row has values of its own.
    """

    name: str
    axes: Axes = (BATCH, WIDTH)
    dtype: str = "int64"
    pad: int | float = 0
    real: int | float | None = None

    @classmethod
    def read(cls, written: Mapping[str, Any]) -> InputArray:
        """The declaration that `written` gives as JSON."""
        return cls(**{**written, "axes": tuple(written["axes"])})

    @property
    def variable(self) -> dict[int, str]:
        """The axes whose size differs between batches: position -> name."""
        return {i: axis for i, axis in enumerate(self.axes) if axis in (BATCH, WIDTH)}

    def written(self) -> dict[str, Any]:
        """The declaration as JSON."""
        return {
            "name": self.name,
            "axes": list(self.axes),
            "dtype": self.dtype,
            "pad": self.pad,
            "real": self.real,
        }


def has_width(arrays: Iterable[InputArray]) -> bool:
    """Whether rows have lengths of their own, so that they can be padded."""
    return any(WIDTH in array.axes for array in arrays)


def declared_arrays(meta: Mapping[str, Any]) -> tuple[InputArray, ...]:
    """The arrays that a features.json declares.

    Runs of older versions declared texts alone. In the oldest ones every model took the mask, after
    the other inputs.
    """
    if "arrays" in meta:
        return tuple(InputArray.read(written) for written in meta["arrays"])
    names = meta.get("model_inputs", (*meta["inputs"], "attention_mask"))
    return tuple(
        InputArray(
            name=name,
            pad=meta["pad"].get(name, 0),
            real=None if name in meta["inputs"] else 1,
        )
        for name in names
    )
