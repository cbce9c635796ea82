"""Texts, or lists of words: the model's own tokenizer makes the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autotune.shared.records import ModelFacts, ModelSource
from autotune.worker.work.base import Work


class TextWork(Work):
    def inputs(self, model: Any, tokenizer: Any) -> tuple[str, ...]:
        """The names of what the assembled `model` takes, in order (see `inputs.model_inputs`)."""
        from autotune.worker.inputs import model_inputs

        return model_inputs(model, tokenizer)

    def rewritten(self, texts: Sequence[Any], source: ModelSource) -> Sequence[Any]:
        """The texts as the tokenizer gets them."""
        return texts

    def encode(
        self, source: ModelSource, *, sets: Sequence[Mapping[str, str]], **options: Any
    ) -> ModelFacts:
        from autotune.worker.encode import encode

        return encode(source, sets=sets, **options)
