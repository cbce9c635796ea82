"""What an engine is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from autotune.records import ModelSource, Scalar
from autotune.worker.batches import Batch

Call = Callable[[Batch], Sequence[npt.NDArray[np.float32]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What an engine may ask about where it would run."""

    instruction_sets: frozenset[str]  # names of autotune.host.isa, e.g. "avx512_bf16"
    versions: Mapping[str, str]  # distribution -> version, those installed only
    ipex: str | None  # None: importable and matching torch; otherwise why not


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A callable ready to be timed.

    `call` takes a padded batch (int64 arrays of shape (batch, width)) and returns the
    outputs that the model source names, in order, as float32 arrays on the host.
    """

    call: Call
    effective: Mapping[str, Scalar] = field(default_factory=dict)  # facts for the record


class Engine(ABC):
    """Turns a model into a callable. One instance prepares one configuration."""

    precisions: ClassVar[tuple[str, ...]]
    specialises_by_shape: ClassVar[bool] = False  # True: each new shape costs a compilation

    @classmethod
    @abstractmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        """Why this engine cannot run `precision` there, and the remedy; None where it can."""

    @abstractmethod
    def prepare(
        self, source: ModelSource, options: Mapping[str, Scalar], samples: Sequence[Batch]
    ) -> Prepared:
        """Load the model and make it ready.

        `options` are the engine knobs of the configuration. `samples[0]` is the example to
        trace or compile with; the others are shorter, longer and odd batches, on which an
        engine that specialises must be compared with what it was made from.

        Raises TrialFailure: `unsupported`, `fallback` (something else than what was asked
        would run) or `inaccurate` (the result is not valid for other shapes).
        """
