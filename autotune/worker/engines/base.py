"""What an engine is."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from autotune.shared.instructions import has_bf16, has_vnni
from autotune.shared.records import ModelSource, Scalar
from autotune.worker.batches import Batch

Call = Callable[[Batch], Sequence[npt.NDArray[np.float32]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What an engine may ask about where it would run."""

    instruction_sets: frozenset[str]  # names of autotune.host.isa, e.g. "avx512_bf16"
    versions: Mapping[str, str]  # distribution -> version, those installed only
    ipex: str | None  # None: importable and matching torch; otherwise why not


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What an engine is prepared from.

    `samples[0]` is the example to trace or compile with; the others are shorter, longer and
    odd batches, on which an engine that specialises must be compared with what it was made
    from. `calibration` holds batches of rows that are not scored, none where there are none.
    """

    source: ModelSource
    samples: Sequence[Batch]
    calibration: Sequence[Batch]
    threads: int
    instruction_sets: frozenset[str]  # as Environment's
    cache: Path  # where an engine may keep what it made for the next process of the run
    for_production: bool = False  # and should, whatever its size: production starts from it

    @property
    def vnni(self) -> bool:
        """Whether int8 products accumulate without saturating."""
        return has_vnni(self.instruction_sets)

    def cached(self, name: str) -> Path:
        """Where the artefact `name` is, or is to be put (`in_one_step`)."""
        self.cache.mkdir(parents=True, exist_ok=True)
        return self.cache / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A callable ready to be timed.

    `call` takes a padded batch (int64 arrays of shape (batch, width)) and returns the
    outputs that the model source names, in order, as float32 arrays on the host.
    """

    call: Call
    effective: Mapping[str, Scalar] = field(default_factory=dict)  # facts for the record
    files: tuple[str, ...] = ()  # in the cache, where the engine runs these alone: no model


@contextlib.contextmanager
def in_one_step(path: Path) -> Iterator[Path]:
    """Where to write what is put at `path` when the block ends without an exception: nobody finds
    half of it there, whoever else writes it at the same time."""
    partial = path.with_name(f"{os.getpid()}-{path.name}")
    yield partial
    partial.replace(path)


TOLERANCE = {"fp32": 1e-3, "bf16_matmul": 5e-2, "bf16": 5e-2, "int8_dynamic": 5e-2}
"""Largest relative difference allowed between what was prepared and what it was made from."""


def unsupported_precision(precision: str, environment: Environment) -> str | None:
    """What the instruction sets rule out."""
    sets = environment.instruction_sets
    if precision in ("bf16", "bf16_matmul") and not has_bf16(sets):
        return "bf16 needs AVX512-BF16 or AMX-BF16; this CPU would emulate it, slower than fp32"
    if precision.startswith("int8") and "avx2" not in sets:
        return "int8 kernels (FBGEMM) need AVX2, which this CPU lacks"
    return None


class Engine(ABC):
    """Turns a model into a callable. One instance prepares one configuration.

    `options` are the engine knobs of the configuration.
    """

    precisions: ClassVar[tuple[str, ...]]
    own_threads: ClassVar[bool] = False  # True: not torch's pool; `prepare` says how many

    def __init__(self, options: Mapping[str, Scalar]) -> None:
        self.options = options

    @classmethod
    @abstractmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        """Why this engine cannot run `precision` there, and the remedy; None where it can."""

    @property
    def specialises_by_shape(self) -> bool:
        """Whether each new shape costs a compilation."""
        return False

    def write_artefacts(self, material: Material) -> None:  # noqa: B027 - most share nothing
        """Put what the processes of a run share where it is kept, unless it is there.

        Of instances side by side one does, with the CPUs of all, before the others prepare.
        Raises TrialFailure as `prepare` does.
        """

    @abstractmethod
    def prepare(self, material: Material) -> Prepared:
        """Load the model and make it ready.

        Raises TrialFailure: `unsupported`, `fallback` (something else than what was asked
        would run) or `inaccurate` (the result is not valid for other shapes).
        """
