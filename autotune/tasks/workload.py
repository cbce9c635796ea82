"""A workload: one model, one task, the rows to run it on, and their features.

Encoded once, by a worker with the model's own tokenizer; the same worker reports what the
interpreter can run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autotune.driver.arrays import EncodedFeatures
from autotune.driver.channel import WorkerFailed
from autotune.driver.process import WorkerProcess
from autotune.driver.replies import Expected
from autotune.driver.runner import Inputs
from autotune.host import Host
from autotune.shared.errors import DatasetError, ModelError
from autotune.shared.records import ModelFacts, ModelSource, to_jsonable
from autotune.store.folder import RunFolder
from autotune.store.wire import WireError, parse
from autotune.tasks.base import Row, Task

ENCODE_TIMEOUT_S = 3600.0
CALIBRATION_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything that decides what is measured, besides the configuration."""

    task: Task  # which knows the model's labels
    source: ModelSource
    facts: ModelFacts
    rows: Sequence[Row]
    features: EncodedFeatures
    identity: dict[str, str | int | None]

    @property
    def id(self) -> str:
        canonical = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def expected(self) -> Expected:
        return Expected.of(self.rows, self.features)


def sample(rows: Sequence[Row], most: int) -> list[Row]:
    """At most `most` rows, evenly spaced over the dataset, in its order (0: all)."""
    if not most or len(rows) <= most:
        return list(rows)
    return [rows[i * len(rows) // most] for i in range(most)]


def rows_digest(rows: Sequence[Row]) -> str:
    text = json.dumps(list(rows), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def encode(
    worker: WorkerProcess,
    *,
    task: Task,
    source: ModelSource,
    rows: Sequence[Row],
    calibration: Sequence[Row],
    max_seq_length: int,
    doc_stride: int,
    folder: RunFolder,
) -> Workload:
    """Write rows and features into `folder.workload`, those of `calibration` below it.

    Raises ModelError (not found, no head for the task, too few positions) or DatasetError
    (nothing left to encode).
    """

    def to_encode(name: str, some: Sequence[Row], where: Path) -> dict[str, str]:
        texts = task.texts(some)
        rows_file = worker.workdir / f"{name}.json"
        rows_file.write_text(
            json.dumps({"text": texts.text, "text_pair": texts.text_pair}), encoding="utf-8"
        )
        where.mkdir(parents=True, exist_ok=True)
        return {"rows_file": str(rows_file.resolve()), "folder": str(where.resolve())}

    kind = task.texts(rows[:1])
    sets = [to_encode("rows", rows, folder.workload)]
    if calibration:
        sets.append(to_encode("calibration", calibration, folder.calibration))
    try:
        reply = worker.request(
            "encode",
            {
                "source": to_jsonable(source),
                "sets": sets,
                "max_seq_length": max_seq_length,
                "doc_stride": doc_stride if kind.windowed else None,
                "words": kind.words,
            },
            timeout_s=ENCODE_TIMEOUT_S,
        )
        facts, features = parse(ModelFacts, reply), EncodedFeatures.load(folder.workload)
    except WorkerFailed as failed:
        raise ModelError(failed.failure.detail) from failed
    except WireError as error:
        raise ModelError(f"the worker's answer makes no sense: {error}") from error
    if not len(features.lengths):
        raise DatasetError("the dataset has nothing to encode")
    task = task.with_labels(facts.labels)
    rows = task.labelled(rows)
    task.write(rows, folder.data)
    return Workload(
        task=task,
        source=source,
        facts=facts,
        rows=rows,
        features=features,
        identity={
            "task": task.name,
            "model": facts.digest,
            "rows": rows_digest(rows),
            "calibration": rows_digest(calibration),
            "max_seq_length": max_seq_length,
            "doc_stride": doc_stride,
        },
    )


def inputs_of(
    folder: RunFolder, source: ModelSource, host: Host, cache: Path | None = None
) -> Inputs:
    """What workers are given of the workload encoded in `folder`; `cache` is where engines keep
    what they made, None: the folder's own."""
    calibrated = folder.calibration.exists()
    return Inputs(
        source=source,
        features=str(folder.workload.resolve()),
        calibration=str(folder.calibration.resolve()) if calibrated else None,
        instruction_sets=host.instruction_sets,
        cache=str((cache or folder.cache).resolve()),
    )


def split(
    rows: Sequence[Row], most: int, calibration: Sequence[Row] | None
) -> tuple[list[Row], list[Row]]:
    """The rows to score, at most `most` (0: all), and CALIBRATION_ROWS others to calibrate on.

    Without rows of its own to calibrate on, those that are not scored serve; a row that is
    scored never does.
    """
    scored = sample(rows, most)
    known = {rows_digest([row]) for row in scored}
    others = [
        r for r in (rows if calibration is None else calibration) if rows_digest([r]) not in known
    ]
    return scored, sample(others, CALIBRATION_ROWS)
