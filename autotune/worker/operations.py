"""One worker's state: a prepared engine that measures points, and the other operations."""

from __future__ import annotations

import itertools
import math
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.shared.errors import TrialFailure
from autotune.shared.padding import PlannedBatch, batches_of_instance, plan
from autotune.shared.records import (
    SCREEN_RATIO,
    Measurement,
    ModelFacts,
    ModelSource,
    Opened,
    Scalar,
    Screen,
    ServedRequests,
    StackFacts,
    StoppingRule,
)
from autotune.worker.batches import Batch, Features, Shape
from autotune.worker.effective import in_effect
from autotune.worker.engines.base import Engine, Material, Prepared
from autotune.worker.group import Group
from autotune.worker.measure import (
    Logits,
    ReferenceOutputs,
    WarmUp,
    measure,
    part_of_pass,
    run_new_shapes,
    shapes_of,
    warm_up,
)
from autotune.worker.serve import meet, serve

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


def tell_torch(process: Mapping[str, Scalar]) -> None:
    """The process knobs that torch is told of. Raises TrialFailure `unsupported`."""
    import torch

    flushes = torch.set_flush_denormal(bool(process["flush_denormals"]))
    if process["flush_denormals"] and not flushes:
        raise TrialFailure("unsupported", "this CPU cannot flush denormals")
    torch.set_num_threads(int(process["threads"]))
    torch.set_num_interop_threads(int(process["interop_threads"]))


def tokens_of(planned: Sequence[PlannedBatch]) -> int:
    """Padding included."""
    return sum(p.width * len(p.rows) for p in planned)


def calibration_of(features: Features) -> list[Batch]:
    """Every row that is not scored, one a batch and without padding."""
    return [features.batch([row], int(length)) for row, length in enumerate(features.lengths)]


class Operations:
    """The operations of `worker.__main__`, by name.

    `probe`, `encode`, `digest` and `peak` stand alone. `open` prepares one engine, after which
    `measure` and `serve` may be called any number of times, for any points. Instances of one
    `group` measure together.
    """

    def __init__(self, workdir: str, group: Group | None = None, forked: bool = False) -> None:
        self._workdir = workdir
        self._forked = forked
        self._group = group or Group()
        self._opened: _Opened | None = None
        self._history = _History()

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {
            "probe": self.probe,
            "encode": self.encode,
            "peak": self.peak,
            "digest": self.digest,
            "open": self.open,
            "measure": self.measure,
            "serve": self.serve,
        }

    def probe(self, *, instruction_sets: list[str]) -> StackFacts:
        from autotune.worker.probe import probe

        return probe(instruction_sets)

    def encode(self, *, source: dict[str, Any], **arguments: Any) -> ModelFacts:
        from autotune.worker.encode import encode

        return encode(ModelSource(**source), **arguments)

    def digest(self, *, source: dict[str, Any]) -> str:
        from autotune.worker.encode import model_digest

        return model_digest(ModelSource(**source))

    def peak(self, *, threads: int, precisions: list[str]) -> dict[str, float]:
        from autotune.worker.peak import peak

        return peak(threads, precisions)

    def open(
        self,
        *,
        source: dict[str, Any],
        engine: Mapping[str, Scalar],
        process: Mapping[str, Scalar],
        features: str,
        calibration: str | None,
        reference: str | None,
        instruction_sets: list[str],
        cache: str | None,
        keep: bool,
    ) -> Opened:
        """Import, load and prepare `engine` (the engine knobs of a configuration).

        `process` holds the process knobs that torch is told of. `features` and `calibration`
        are folders that `encode` wrote; `reference` is the file of the baseline's outputs, None
        or not there before they are known; `cache` is where prepared artefacts are kept (None:
        in the workdir), all that an engine has of them where `keep`.
        """
        start = time.perf_counter()
        model = ModelSource(**source)
        from autotune.worker.engines import engine_class

        found = engine_class(str(engine["mode"]))(engine)
        if not found.own_threads or process["flush_denormals"]:
            tell_torch(process)
        imported = time.perf_counter()
        loaded = Features.load(features)
        material = Material(
            source=model,
            samples=samples_of(loaded),
            calibration=calibration_of(Features.load(calibration)) if calibration else (),
            threads=int(process["threads"]),
            instruction_sets=frozenset(instruction_sets),
            cache=Path(cache or os.path.join(self._workdir, "cache")),
            for_production=keep,
        )
        if self._group.count > 1:
            if self._group.index == 0:
                found.write_artefacts(material)
            self._group.wait("exported")
        prepared = found.prepare(material)
        phases = {"import": imported - start, "prepare": time.perf_counter() - imported}
        answers = None
        if reference is not None and os.path.exists(reference):
            with np.load(reference, allow_pickle=False) as arrays:
                known = {name: arrays[name] for name in model.outputs}
            answers = ReferenceOutputs(arrays=known, kinds=model.outputs, features=loaded)
        self._opened = _Opened(
            engine=found,
            prepared=prepared,
            features=loaded,
            outputs=model.outputs,
            answers=answers,
            phases_s=phases,
        )
        return Opened(phases_s=phases, files=prepared.files)

    def measure(self, *, point: dict[str, Any], rule: dict[str, Any]) -> Measurement | Screen:
        """Time `point` (batch_size, padding, ...) by `rule`; leave the outputs in the workdir.

        A point whose first batches show that it is too slow is only screened. The "rest" of a
        rule may only be asked of the point measured last: it continues that measurement.

        Instances of a group share the batches if there are enough. They begin together. An
        instance that has finished keeps running untimed until all have, so that every timed pass
        ran beside all the other instances.
        """
        opened, history = self._opened, self._history
        if opened is None:
            raise TrialFailure("protocol", "measure was asked before a successful open")
        start = time.perf_counter()
        asked = StoppingRule(**rule)
        work = self._plan(opened, point)
        history.measure_requests += 1
        if asked.rung != "rest":
            warmed = self._warm_up(opened, point, work, asked, start)
            if isinstance(warmed, Screen):
                return warmed
        elif history.last_point != point:
            raise TrialFailure("protocol", "the rest was asked of a point not measured last")
        else:
            warmed = _Warmed(chosen=slice(None), settled=True, warm_pass_s=None)
        history.last_point = point
        return self._time(opened, work, asked, warmed, start)

    def _plan(self, opened: _Opened, point: dict[str, Any]) -> _Work:
        """The batches of `point` that this instance runs."""
        features, group = opened.features, self._group
        whole = plan(features.lengths, max_seq_length=features.max_seq_length, **point)
        numbers = range(len(whole))[batches_of_instance(len(whole), group.index, group.count)]
        planned = [whole[number] for number in numbers]
        return _Work(
            numbers=numbers,
            planned=planned,
            batches=[features.batch(p.rows, p.width) for p in planned],
            padded_tokens=tokens_of(whole),
        )

    def _warm_up(
        self,
        opened: _Opened,
        point: dict[str, Any],
        work: _Work,
        rule: StoppingRule,
        start: float,
    ) -> _Warmed | Screen:
        """Warm up, and choose the batches to time; a Screen if all instances are too slow."""
        history = self._history
        seen = history.seen_shapes if opened.engine.specialises_by_shape else None
        was_warm = point in history.warm_points
        share = tokens_of(work.planned) / work.padded_tokens

        def check_outputs(numbers: Sequence[int], outputs: Sequence[Logits]) -> None:
            if opened.answers is not None:
                opened.answers.check([work.planned[number] for number in numbers], outputs)

        screen, too_slow = warm_up(
            WarmUp(
                call=opened.prepared.call,
                batches=work.batches,
                clock=time.perf_counter,
                seen_shapes=seen,
                point_was_warm=was_warm,
                process_is_warm=bool(history.warm_points),
                screen_above_s=(
                    math.inf if rule.leader_s is None else SCREEN_RATIO * rule.leader_s * share
                ),
                check_outputs=check_outputs,
            )
        )
        if self._group.all_say(f"hopeless-{history.measure_requests}", too_slow):
            return replace(
                screen,
                batches=tuple(work.numbers[number] for number in screen.batches),
                pass_s=screen.pass_s / share,
                phases_s={**opened.phases_s, "warm_up": time.perf_counter() - start},
            )
        chosen = part_of_pass(len(work.planned), screen.pass_s, rule.part_s)
        batches, warm_pass_s = work.batches[chosen], None
        if seen is not None and rule.rung != "first":
            run_new_shapes(opened.prepared.call, batches, seen)
        elif seen is not None and not shapes_of(batches) <= seen:
            chosen_tokens = tokens_of(work.planned[chosen])
            warm_pass_s = screen.pass_s * chosen_tokens / tokens_of(work.planned)
            seen |= shapes_of(batches)
        if not was_warm:
            history.warm_points.append(point)
        return _Warmed(chosen=chosen, settled=was_warm or screen.settled, warm_pass_s=warm_pass_s)

    def _time(
        self,
        opened: _Opened,
        work: _Work,
        rule: StoppingRule,
        warmed: _Warmed,
        start: float,
    ) -> Measurement:
        """Time passes, beside the other instances of the group, and report them."""
        group, features, call = self._group, opened.features, opened.prepared.call
        request = self._history.measure_requests
        timed = work.planned[warmed.chosen]
        released = group.wait(f"warm-{request}")
        warm = time.perf_counter()
        passes, outputs, repeatable = measure(
            call,
            opened.outputs,
            timed,
            features,
            rule,
            instance=group.index,
            share=tokens_of(timed) / work.padded_tokens,
            complete=len(timed) == len(work.planned),
            settled=warmed.settled,
            warm_pass_s=warmed.warm_pass_s,
        )
        measured = time.perf_counter()
        group.arrive(f"done-{request}")
        for batch in itertools.cycle(work.batches):
            if group.all_at(f"done-{request}"):
                break
            call(batch)
        if outputs is not None:
            np.savez(
                os.path.join(self._workdir, OUTPUTS_FILE),
                **outputs.arrays,  # type: ignore[arg-type]
            )
        return Measurement(
            examples=features.examples,
            features=len(features),
            tokens=int(features.lengths.sum()),
            padded_tokens=work.padded_tokens,
            batch_features=tuple(len(p.rows) for p in timed),
            passes=passes,
            phases_s={**opened.phases_s, "warm_up": warm - start, "measure": measured - warm},
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            effective={
                **in_effect(torch_threads=not opened.engine.own_threads),
                **opened.prepared.effective,
                "released_s": released,  # CLOCK_MONOTONIC
                "forked": self._forked,
            },
            outputs_digest=outputs.digest if outputs else "",
            outputs_repeatable=repeatable,
        )

    def serve(
        self, *, point: dict[str, Any], rows: list[int], arrivals_s: list[float]
    ) -> ServedRequests:
        """Answer requests for `rows` as they arrive; `measure` of the point has warmed it up."""
        opened = self._opened
        if opened is None:
            raise TrialFailure("protocol", "serve was asked before a successful open")
        call, features = opened.prepared.call, opened.features
        met = self._history.seen_shapes if opened.engine.specialises_by_shape else None
        if met is not None:
            meet(call, features, point=point, met=met)
        self._history.serve_requests += 1
        self._group.wait(f"serve-{self._history.serve_requests}")
        return serve(call, features, rows, arrivals_s, point=point, met=met)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What `open` leaves for `measure`."""

    engine: Engine
    prepared: Prepared
    features: Features
    outputs: Mapping[str, str]
    answers: ReferenceOutputs | None
    phases_s: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class _History:
    """What the process has done since it started. The counts name the meetings of the group."""

    measure_requests: int = 0
    serve_requests: int = 0
    warm_points: list[dict[str, Any]] = field(default_factory=list)
    last_point: dict[str, Any] | None = None  # the point measured last
    seen_shapes: set[Shape] = field(default_factory=set)  # run by an engine that specialises


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The batches of one point that this instance runs."""

    numbers: Sequence[int]  # of the batches, in the whole workload's pass
    planned: Sequence[PlannedBatch]
    batches: Sequence[Batch]
    padded_tokens: int  # of the whole workload


@dataclass(frozen=True, slots=True, kw_only=True)
class _Warmed:
    """What to time after warming up, see `measure.measure`."""

    chosen: slice  # of the instance's batches
    settled: bool
    warm_pass_s: float | None
