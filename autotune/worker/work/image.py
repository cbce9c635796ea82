"""Images: the model's own image processor makes the inputs.

Source: transformers' image processors, those that need pillow and numpy alone. Processors that
need torchvision give slightly other numbers, and are never used. So every stack runs the same
inputs.
Limits: all images of a workload must have one size once the processor has resized them.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.shared.axes import BATCH, InputArray
from autotune.shared.errors import TrialFailure, describe
from autotune.shared.records import ModelFacts, ModelSource
from autotune.worker.batches import FEATURES_FILE, Array, Batch, Features
from autotune.worker.flops import count_work
from autotune.worker.slim import transformers
from autotune.worker.work.base import Work

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
AXES = {4: (BATCH, "channels", "image_height", "image_width")}
"""The names of the axes of an input, by their number."""
NO_PILLOW = "reading images needs pillow in this stack: pip install 'autotune-cpu[images]'"


class ImageWork(Work):
    def files(self, folder: Path) -> set[Path]:
        return {path for name in PROCESSOR_FILES if (path := folder / name).is_file()}

    def encode(
        self, source: ModelSource, *, sets: Sequence[Mapping[str, str]], **options: Any
    ) -> ModelFacts:
        """Write the inputs of each set's `rows_file`, which is JSON: `{"image": [path, ...]}`."""
        from autotune.worker.encode import inspect_model

        check_pillow()
        processor, model, facts = inspect_model(
            source, load_reader=load_processor, files=PROCESSOR_FILES
        )
        if facts.problem != "single_label":
            raise TrialFailure(
                "unsupported",
                f"{source.path} gives an image several labels or a number; pass a model that "
                "chooses one label",
            )
        names = _inputs(model, processor)
        encoded = [_encode_rows(processor, names, row_set) for row_set in sets]
        work = _work(model, encoded[0]) if len(encoded[0]) else None
        for row_set, features in zip(sets, encoded, strict=True):
            replace(features, work=work).write_meta(row_set["folder"])
        return replace(facts, work=work)


def check_pillow() -> None:
    """Raise TrialFailure `unsupported` if images cannot be read."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise TrialFailure("unsupported", NO_PILLOW) from error


def load_processor(source: ModelSource) -> Any:
    """The model's image processor that needs no torchvision."""
    return transformers.AutoImageProcessor.from_pretrained(
        source.path,
        revision=source.revision,
        trust_remote_code=source.trust_remote_code,
        use_fast=False,
    )


def _inputs(model: Any, processor: Any) -> tuple[str, ...]:
    """The processor's outputs that the model takes, in the order of its `forward`."""
    parameters = inspect.signature(model.forward).parameters
    names = tuple(name for name in parameters if name in processor.model_input_names)
    if not names:
        offered = ", ".join(processor.model_input_names)
        raise TrialFailure("unsupported", f"{type(model).__name__} takes none of {offered}")
    return names


def _encode_rows(processor: Any, names: tuple[str, ...], row_set: Mapping[str, str]) -> Features:
    """Write the arrays of one set into its folder. Returns its features."""
    with open(row_set["rows_file"], encoding="utf-8") as file:
        paths = json.load(file)["image"]
    rows = [_encode_image(processor, names, path) for path in paths]
    for path, row in zip(paths, rows, strict=True):
        for name in names:
            if row[name].shape != rows[0][name].shape:
                raise TrialFailure(
                    "unsupported",
                    f"{path}: the model's image processor makes {name} of shape "
                    f"{row[name].shape}, and {rows[0][name].shape} of {paths[0]}; pass images of "
                    "one size",
                )
    values: dict[str, Array] = {name: np.stack([row[name] for row in rows]) for name in names}
    count = len(rows)
    np.savez(
        os.path.join(row_set["folder"], FEATURES_FILE),
        lengths=np.ones(count, np.int32),
        example=np.arange(count, dtype=np.int32),
        **values,  # type: ignore[arg-type]
    )
    return Features(
        arrays=tuple(_declared(name, values[name]) for name in names),
        values=values,
        lengths=np.ones(count, np.int64),
        padding_side="right",
        max_seq_length=1,
        examples=count,
    )


def _encode_image(processor: Any, names: Sequence[str], path: str) -> dict[str, Array]:
    """The inputs of one image, upright as its EXIF data says.

    Raises TrialFailure `unsupported`, which names the file.
    """
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(path) as image:
            upright = PIL.ImageOps.exif_transpose(image).convert("RGB")
            found = processor(images=upright, return_tensors="np")
        return {name: np.asarray(found[name][0]) for name in names}
    except Exception as error:  # decoders of damaged files raise errors of any type
        words = describe(error)
        raise TrialFailure("unsupported", f"{path} cannot be read as an image: {words}") from error


def _declared(name: str, values: Array) -> InputArray:
    others = tuple(f"axis_{place}" for place in range(1, values.ndim))
    axes = AXES.get(values.ndim, (BATCH, *others))
    return InputArray(name=name, axes=axes, dtype=str(values.dtype))


def _work(model: Any, features: Features) -> tuple[float, float, float]:
    """The operations of one image, as `ModelFacts.work`: they depend on no width."""
    batch: Batch = features.batch([0], 1)
    inputs = {name: torch.from_numpy(array) for name, array in batch.items()}
    return float(count_work(functools.partial(model, **inputs)).total), 0.0, 0.0
