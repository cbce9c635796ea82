"""One worker's state: a prepared engine that measures points, and the other operations."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autotune.errors import TrialFailure
from autotune.records import Measure, Measurement, ModelFacts, ModelSource, Scalar, StackFacts
from autotune.worker.batches import Batch, Features, plan
from autotune.worker.engines.base import Engine, Prepared
from autotune.worker.measure import measure, warm_up

OUTPUTS_FILE = "outputs.npz"


def samples_of(features: Features) -> list[Batch]:
    """The example to trace with, then a shorter, a longer, an odd and a full-width batch.

    The example never depends on the point measured later: points that share a session must
    be measured on the same prepared engine that the launch script prepares.
    """
    order = np.argsort(features.lengths, kind="stable")
    middle = len(order) // 2

    def rows(*positions: int) -> list[int]:
        return [int(order[position % len(order)]) for position in positions]

    def batch(chosen: list[int]) -> Batch:
        return features.batch(chosen, max(int(features.lengths[row]) for row in chosen))

    return [
        batch(rows(middle - 1, middle, middle + 1, middle + 2)),
        batch(rows(0)),
        batch(rows(-1, -2, -3)),
        batch(rows(0, middle, -1, middle // 2, 1)),
        features.batch(rows(middle), features.max_seq_length),
    ]


class Session:
    """The operations of `worker.__main__`, by name.

    `probe` and `encode` stand alone. `open` prepares one engine, after which `measure` may
    be called any number of times, for any points.
    """

    def __init__(self, workdir: str) -> None:
        self._workdir = workdir
        self._phases: dict[str, float] = {}
        self._engine: Engine | None = None
        self._prepared: Prepared | None = None
        self._features: Features | None = None
        self._source: ModelSource | None = None
        self._threads = 0
        self._warm: list[dict[str, Any]] = []  # the points that have been warmed up

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {
            "probe": self.probe,
            "encode": self.encode,
            "open": self.open,
            "measure": self.measure,
        }

    def probe(self, *, instruction_sets: list[str]) -> StackFacts:
        from autotune.worker.probe import probe

        return probe(instruction_sets)

    def encode(self, *, source: dict[str, Any], **arguments: Any) -> ModelFacts:
        from autotune.worker.encode import encode

        return encode(ModelSource(**source), **arguments)

    def open(
        self, *, source: dict[str, Any], engine: Mapping[str, Scalar], threads: int, features: str
    ) -> dict[str, float]:
        """Import, load and prepare `engine` (the engine knobs of a configuration).

        `features` is the folder that `encode` wrote. Returns the seconds of each phase.
        """
        start = time.perf_counter()
        import torch

        from autotune.worker.engines import engine_class, torch_model

        found = engine_class(str(engine["mode"]))
        torch_model.quiet()
        torch.set_num_threads(threads)
        imported = time.perf_counter()
        self._threads = threads
        self._source = ModelSource(**source)
        self._features = Features.load(features)
        self._engine = found()
        self._prepared = self._engine.prepare(self._source, engine, samples_of(self._features))
        self._phases = {
            "import": imported - start,
            "prepare": time.perf_counter() - imported,
        }
        return self._phases

    def measure(self, *, point: dict[str, Any], rule: dict[str, Any]) -> Measurement:
        """Time `point` (batch_size, padding, ...) by `rule`; leave the outputs in the workdir.

        Raises TrialFailure `fallback` where fewer threads run than were asked for.
        """
        if self._prepared is None or self._features is None or self._source is None:
            raise TrialFailure("protocol", "measure was asked before a successful open")
        features, prepared = self._features, self._prepared
        start = time.perf_counter()
        planned = plan(features.lengths, max_seq_length=features.max_seq_length, **point)
        batches = [features.batch(p.rows, p.width) for p in planned]
        if point in self._warm:
            prepared.call(batches[0])
        else:
            warm_up(
                prepared.call,
                batches,
                every_shape=bool(self._engine and self._engine.specialises_by_shape),
                clock=time.perf_counter,
            )
            self._warm.append(point)
        warm = time.perf_counter()
        passes, outputs, repeatable = measure(
            prepared.call, self._source.outputs, planned, features, Measure(**rule)
        )
        phases = {
            **self._phases,
            "warm_up": warm - start,
            "measure": time.perf_counter() - warm,
        }
        np.savez(
            os.path.join(self._workdir, OUTPUTS_FILE),
            **outputs.arrays,  # type: ignore[arg-type]
        )
        return Measurement(
            examples=features.examples,
            features=len(features),
            tokens=int(features.lengths.sum()),
            padded_tokens=sum(p.width * len(p.rows) for p in planned),
            batch_features=tuple(len(p.rows) for p in planned),
            passes=passes,
            phases_s=phases,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            effective={**self._in_effect(), **prepared.effective},
            outputs_digest=outputs.digest,
            outputs_repeatable=repeatable,
        )

    def _in_effect(self) -> dict[str, Scalar]:
        import torch

        cpus = sorted(os.sched_getaffinity(0))
        threads = torch.get_num_threads()
        if threads != self._threads or len(cpus) < threads:
            raise TrialFailure(
                "fallback",
                f"asked for {self._threads} threads, got {threads} on {len(cpus)} CPUs",
            )
        return {"threads": threads, "cpus": ",".join(map(str, cpus))}
