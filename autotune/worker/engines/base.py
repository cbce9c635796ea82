"""The interface of an engine, and what all engines share."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autotune.shared.axes import Axes, InputArray, output_axes
from autotune.shared.errors import TrialFailure
from autotune.shared.instructions import has_vnni
from autotune.shared.precisions import precision_named
from autotune.shared.records import Config, ModelSource, Scalar
from autotune.worker.batches import Batch

Call = Callable[[Batch], Sequence[npt.NDArray[np.float32]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The host and stack on which an engine would run."""

    instruction_sets: frozenset[str]  # names of autotune.host.isa, e.g. "avx512_bf16"
    versions: Mapping[str, str]  # distribution -> version; only installed distributions
    ipex: str | None  # why IPEX cannot be used; None if it loads and matches torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The inputs of `Engine.prepare`.

    `arrays` declares what the model takes, in the order of its `forward`.
    `samples[0]` is the example batch to trace or compile with. The other samples are shorter,
    longer and have odd sizes. An engine that traces, exports or compiles must compare its outputs
    with those of the original model on all samples.
    `calibration` holds batches of rows that are never scored. It may be empty.
    `own_pad_token` and `work` are as in `Features`.
    """

    source: ModelSource
    arrays: tuple[InputArray, ...]
    samples: Sequence[Batch]
    calibration: Sequence[Batch]
    threads: int
    instruction_sets: frozenset[str]  # as in Environment
    cache: Path  # folder of artefacts that the processes of a run share
    for_production: bool = False  # keep every artefact there, of any size, for production to use
    own_pad_token: int | None = None
    work: tuple[float, float, float] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the model's inputs, in order."""
        return tuple(array.name for array in self.arrays)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the model's outputs, in order."""
        return tuple(self.source.outputs)

    @property
    def output_axes(self) -> dict[str, Axes]:
        """Output -> the axes that it begins with, in the order of `outputs`."""
        return output_axes(self.source.outputs)

    @property
    def vnni(self) -> bool:
        """Whether the CPU sums int8 products without saturating."""
        return has_vnni(self.instruction_sets)

    def calibration_rows(self) -> Sequence[Batch]:
        """The calibration batches. Raises TrialFailure `unsupported` if there are none: a quantiser
        without them makes an engine of random ranges, or none."""
        if not self.calibration:
            raise TrialFailure(
                "unsupported", "static int8 has no rows to calibrate on: pass --calibration DATASET"
            )
        return self.calibration

    def cached(self, name: str) -> Path:
        """The path of the artefact `name`, whether it exists or not. Creates the folder.

        Use `write_atomically` to write it.
        """
        self.cache.mkdir(parents=True, exist_ok=True)
        return self.cache / name


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A callable ready to be timed.

    `call` takes a padded batch. It returns the outputs that the model source names, in that order,
    as float32 arrays.
    """

    call: Call
    effective: Mapping[str, Scalar] = field(default_factory=dict)  # facts that the record shows
    files: tuple[str, ...] = ()  # cached files that `call` runs without loading the model
    properties: Mapping[str, str] = field(default_factory=dict)
    """What the engine's own library was told, by its own names, so that a person can do so too."""


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A temporary path, renamed to `path` if the block ends without an exception.

    Other processes never see a half-written file, even if several write `path` at once.
    """
    partial = path.with_name(f"{os.getpid()}-{path.name}")
    yield partial
    partial.replace(path)


def unsupported_precision(precision: str, environment: Environment) -> str | None:
    """Why this CPU's instruction sets rule out `precision`. None if they do not."""
    return precision_named(precision).refusal(environment.instruction_sets)


class Engine(ABC):
    """Turns a model into a callable. One object prepares one configuration.

    `options` is the part of the configuration that is the engine's (`EngineDescriptor.knobs`).
    What can be said of the engine without running it is in its descriptor
    (`autotune.shared.engines`). An engine with threads of its own says in `Prepared.effective` how
    many there are.
    """

    def __init__(self, options: Config) -> None:
        self.options = options

    @classmethod
    @abstractmethod
    def unsupported(cls, precision: str, environment: Environment) -> str | None:
        """Why this engine cannot run `precision` here, and the remedy. None if it can."""

    @property
    def specialises_by_shape(self) -> bool:
        """Whether the engine compiles or chooses kernels again for each new shape."""
        return False

    def write_artefacts(self, material: Material) -> None:  # noqa: B027 - most share nothing
        """Write the artefacts that the processes of a run share, unless they exist.

        If several instances run side by side, only the first one calls this. The others wait,
        and prepare afterwards. Raises TrialFailure as `prepare` does.
        """

    @abstractmethod
    def prepare(self, material: Material) -> Prepared:
        """Load the model and make it ready to be timed.

        Raises TrialFailure:
        - `unsupported`: this host, stack or model cannot run the configuration.
        - `fallback`: something other than the configuration would run.
        - `inaccurate`: the outputs are wrong for some batch shapes.
        """
