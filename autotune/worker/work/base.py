"""The interface of the worker's half of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.shared.records import ModelFacts, ModelSource


class Work(ABC):
    """How rows become inputs, and what is run on them."""

    def assemble(self, model: Any, source: ModelSource) -> Any:
        """What is run: the model of transformers, with whatever else belongs into the graph.

        The result is a torch module. It takes the inputs by name and returns a mapping that holds
        the outputs of `source`. Raises TrialFailure `unsupported`.
        """
        return model

    def core(self, assembled: Any) -> Any:
        """The model of transformers inside of what `assemble` returned."""
        return assembled

    def files(self, folder: Path) -> set[Path]:
        """The files in the model's folder that decide what is run, besides those of the model."""
        return set()

    @abstractmethod
    def encode(
        self, source: ModelSource, *, sets: Sequence[Mapping[str, str]], **options: Any
    ) -> ModelFacts:
        """Write the inputs of each set's `rows_file` into its `folder`. Returns the model's facts.

        The task wrote the rows (`Task.for_worker`) and chose the options (`Task.encoding`).

        Raises TrialFailure `unsupported` for a model or rows that do not suit the task.
        """
