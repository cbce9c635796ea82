"""A workload: one model, one task, the rows to run the model on, and their features.

A worker encodes the rows once, with the model's own tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.driver.arrays import EncodedFeatures, read_padding
from autotune.driver.channel import WorkerFailed
from autotune.driver.process import WorkerProcess
from autotune.driver.replies import Expected
from autotune.driver.runner import Inputs
from autotune.host import Host
from autotune.shared.errors import DatasetError, ModelError
from autotune.shared.precisions import precision_named
from autotune.shared.records import Config, ModelFacts, ModelSource, to_jsonable
from autotune.store.folder import RunFolder
from autotune.store.wire import WireError, parse
from autotune.tasks.base import Row, Task

ENCODE_TIMEOUT_S = 3600.0
CALIBRATION_ROWS = 64
"""Most rows that calibrate a quantised model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything besides the configuration that decides what is measured."""

    task: Task  # has the model's labels
    source: ModelSource
    facts: ModelFacts
    rows: Sequence[Row]
    features: EncodedFeatures
    padding: Mapping[str, Any] | None  # see `driver.arrays.read_padding`
    identity: dict[str, str | int | None]

    @property
    def id(self) -> str:
        """The first 12 hex digits of a hash of `identity`."""
        canonical = json.dumps(self.identity, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def expected(self) -> Expected:
        """The counts that every worker's reply must match."""
        return Expected.of(self.rows, self.features)


def sample(rows: Sequence[Row], most: int) -> list[Row]:
    """Return at most `most` rows, evenly spaced and in the dataset's order. 0 means all rows."""
    if not most or len(rows) <= most:
        return list(rows)
    return [rows[i * len(rows) // most] for i in range(most)]


def rows_digest(rows: Sequence[Row]) -> str:
    """Return a SHA-256 hash of the rows' content, in hex digits."""
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
    """Encode the rows with the model's tokenizer and return the workload.

    The features go to `folder.workload`, those of the calibration rows to `folder.calibration`.
    The rows go to `folder.data`.

    Raises ModelError if the model is missing, lacks the head of the task, has too few positions,
    or if what the worker wrote cannot be read. Raises DatasetError if there is nothing to encode.
    """

    sets = {folder.workload: rows, **({folder.calibration: calibration} if calibration else {})}
    facts, features = encode_sets(
        worker,
        task=task,
        source=source,
        sets=sets,
        max_seq_length=max_seq_length,
        doc_stride=doc_stride,
    )
    if not len(features.lengths):
        raise DatasetError("the dataset has nothing to encode")
    try:
        padding = read_padding(folder.workload)
    except WireError as error:
        raise ModelError(f"the worker's features are malformed: {error}") from error
    task = task.for_model(facts.labels, facts.problem)
    rows = task.with_model_labels(rows)
    task.write(rows, folder.data)
    return Workload(
        task=task,
        source=source,
        facts=facts,
        rows=rows,
        features=features,
        padding=padding,
        identity={
            "task": task.name,
            "model": facts.digest,
            "rows": rows_digest(rows),
            "calibration": rows_digest(calibration),
            "max_seq_length": max_seq_length,
            "doc_stride": doc_stride,
        },
    )


def encode_sets(
    worker: WorkerProcess,
    *,
    task: Task,
    source: ModelSource,
    sets: Mapping[Path, Sequence[Row]],
    max_seq_length: int,
    doc_stride: int,
) -> tuple[ModelFacts, EncodedFeatures]:
    """Encode each set of rows into its folder. Returns the facts and the first set's features.

    Raises ModelError as `encode` does.
    """

    def written(number: int, where: Path, rows: Sequence[Row]) -> dict[str, str]:
        rows_file = worker.workdir / f"rows-{number}.json"
        rows_file.write_text(json.dumps(task.for_worker(rows)), encoding="utf-8")
        where.mkdir(parents=True, exist_ok=True)
        return {"rows_file": str(rows_file.resolve()), "folder": str(where.resolve())}

    first = next(iter(sets))
    options = task.encoding(sets[first], max_seq_length=max_seq_length, doc_stride=doc_stride)
    try:
        reply = worker.request(
            "encode",
            {
                "source": to_jsonable(source),
                "sets": [written(n, where, rows) for n, (where, rows) in enumerate(sets.items())],
                **options,
            },
            timeout_s=ENCODE_TIMEOUT_S,
        )
        return parse(ModelFacts, reply), EncodedFeatures.load(first)
    except WorkerFailed as failed:
        raise ModelError(failed.failure.detail) from failed
    except WireError as error:
        raise ModelError(f"the worker's reply is malformed: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a finished run keeps, from which its engine can be prepared again. None: not kept."""

    engine: Path | None = None  # one folder for each stack
    calibration: Path | None = None  # encoded rows


NOTHING_KEPT = Kept()
UNCALIBRATED = "no rows to calibrate on: pass --calibration DATASET, rows that are not scored"


def kept_by(run: RunFolder, stack: str) -> Kept:
    """Return what the finished run in `run` keeps for its engine on `stack`."""
    return Kept(
        engine=run.engine if (run.engine / stack).is_dir() else None,
        calibration=run.calibration if run.calibration.is_dir() else None,
    )


def inputs_of(
    folder: RunFolder,
    source: ModelSource,
    host: Host,
    *,
    cache: Path | None = None,
    kept: Kept = NOTHING_KEPT,
) -> Inputs:
    """Return the workers' inputs for the workload that is encoded in `folder`.

    Everything that prepares an engine calls this: a search, and evaluate, run, verify, serve-test
    and launch.sh, which pass what the run `kept`. Engines start from the kept engine. Where there
    is none they write what they convert into `cache` (None: `folder.cache`), and static int8
    calibrates on the rows of `folder`, else on the kept ones.
    """
    calibration = folder.calibration if folder.calibration.is_dir() else kept.calibration
    return Inputs(
        source=source,
        features=str(folder.workload.resolve()),
        calibration=None if calibration is None else str(calibration.resolve()),
        instruction_sets=host.instruction_sets,
        cache=str((kept.engine or cache or folder.cache).resolve()),
    )


def uncalibrated(config: Config, inputs: Inputs, kept: Kept = NOTHING_KEPT) -> str | None:
    """Return why a calibrated precision cannot be prepared from `inputs`. None if it can, or if
    `config` needs no rows to calibrate on."""
    ready = inputs.calibration is not None or kept.engine is not None
    needs_rows = precision_named(config["precision"]).calibrated
    return UNCALIBRATED if needs_rows and not ready else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSets:
    """The rows of a dataset by what they serve for. No row serves for two things."""

    scored: list[Row]
    """The rows that every configuration runs."""
    calibration: list[Row]
    further: list[Row]
    """All others. The winner is judged on them too."""

    def fewer(self, most: int) -> RowSets:
        """Return at most `most` rows to score; the others are further rows. 0 means all rows."""
        scored = sample(self.scored, most)
        kept = {id(row) for row in scored}
        rest = [row for row in self.scored if id(row) not in kept]
        return RowSets(scored=scored, calibration=self.calibration, further=[*rest, *self.further])


def split(rows: Sequence[Row], most: int, calibration: Sequence[Row] | None) -> RowSets:
    """Return at most `most` rows to score (0: all), and at most CALIBRATION_ROWS to calibrate on.

    Rows for calibration come from `calibration`, or from the rest of `rows` if that is None.
    """
    scored = sample(rows, most)
    known = {rows_digest([row]) for row in scored}
    others = [r for r in rows if rows_digest([r]) not in known]
    source = (
        others if calibration is None else [r for r in calibration if rows_digest([r]) not in known]
    )
    calibrating = sample(source, CALIBRATION_ROWS)
    known |= {rows_digest([row]) for row in calibrating}
    further = [r for r in others if rows_digest([r]) not in known]
    return RowSets(scored=scored, calibration=calibrating, further=further)
