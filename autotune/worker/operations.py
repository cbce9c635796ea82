"""What a worker does when asked: prepare an engine, measure points with it, and the rest."""

from __future__ import annotations

import itertools
import math
import os
import resource
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.shared import engines, precisions
from autotune.shared.axes import Axes, output_axes
from autotune.shared.engine import EngineFile
from autotune.shared.errors import InputError, TrialFailure, describe, is_out_of_memory
from autotune.shared.padding import PlannedBatch, batches_of_instance, plan
from autotune.shared.precisions import precision_named
from autotune.shared.records import (
    Config,
    Measurement,
    ModelFacts,
    ModelSource,
    Opened,
    Scalar,
    Screen,
    ServedRequests,
    StackFacts,
)
from autotune.shared.stopping import SCREEN_RATIO, StoppingRule
from autotune.worker.batches import (
    Batch,
    Features,
    Shape,
    calibration_batches,
    sample_batches,
)
from autotune.worker.effective import read_effective, read_shared_bytes
from autotune.worker.engines.base import Call, Engine, Material, Prepared
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
from autotune.worker.serve import serve, warm_up_shapes
from autotune.worker.work import work_named

OUTPUTS_FILE = "outputs.npz"


def set_torch_knobs(session: Config) -> None:
    """Set the knobs of `session` that torch has calls for: threads, and flushing denormals.

    Raises TrialFailure `unsupported` if the CPU cannot flush denormals.
    """
    import torch

    flushes = torch.set_flush_denormal(bool(session["flush_denormals"]))
    if session["flush_denormals"] and not flushes:
        raise TrialFailure("unsupported", "this CPU cannot flush denormals")
    torch.set_num_threads(int(session["threads"]))
    torch.set_num_interop_threads(int(session["interop_threads"]))


def seconds_alive() -> float:
    """Seconds since this process was started or forked."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()  # the name may hold spaces
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)


def count_padded_tokens(planned: Sequence[PlannedBatch]) -> int:
    """The places (tokens, frames, or rows) of these batches, padding included."""
    return sum(p.width * len(p.rows) for p in planned)


class Operations:
    """The operations of one worker; `handlers` gives them by name.

    `probe`, `encode`, `digest` and `peak` work at any time. `open` prepares one engine. After it,
    `measure` and `serve` work any number of times, for any points. Instances of one `group`
    measure together. `forked` says whether a fork server started this process.
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

    def probe(
        self, *, instruction_sets: list[str], engine_files: Sequence[Mapping[str, Any]] = ()
    ) -> StackFacts:
        """This interpreter as a stack: its versions, and the modes and precisions it can run.

        `engine_files` are the files of engines of other packages, as `EngineFile`.
        """
        from autotune.worker.probe import probe

        return probe(instruction_sets, [EngineFile(**one) for one in engine_files])

    def encode(self, *, source: dict[str, Any], **arguments: Any) -> ModelFacts:
        """Encode the rows into folders of features, as the work of `source` does."""
        model = ModelSource(**source)
        return work_named(model.work).encode(model, **arguments)

    def digest(self, *, source: dict[str, Any]) -> str:
        """SHA-256 over the configuration, tokenizer and weights of the model."""
        from autotune.worker.encode import model_digest

        return model_digest(ModelSource(**source))

    def peak(self, *, threads: int, precisions: list[str]) -> dict[str, float]:
        """Precision -> operations per second of a matrix product, the fastest this host does."""
        from autotune.worker.peak import peak

        return peak(threads, precisions)

    def open(
        self,
        *,
        source: dict[str, Any],
        session: Mapping[str, Scalar],
        features: str,
        calibration: str | None,
        reference: str | None,
        instruction_sets: list[str],
        cache: str | None,
        keep: bool,
        engine_file: dict[str, Any] | None = None,
    ) -> Opened:
        """Import, load and prepare an engine.

        - `session`: the part of the configuration that a session fixes: its process and engine.
        - `features`, `calibration`: folders that `encode` wrote.
        - `reference`: the file of the baseline's outputs. None, or missing, before the baseline
          was measured.
        - `cache`: the folder for prepared artefacts. None: a folder in the workdir.
        - `keep`: keep every artefact that the engine can start from, whatever its size.
        - `engine_file`: the file of an engine of another package, as `EngineFile`.

        Raises TrialFailure as `set_torch_knobs` and `Engine.prepare` do.
        """
        start, alive_s = time.perf_counter(), seconds_alive()
        model, config = ModelSource(**source), Config.of(session)
        from autotune.worker.engines import find_engine

        file = None if engine_file is None else EngineFile(**engine_file)
        descriptor, engine_class = find_engine(str(config["mode"]), file)
        try:
            precision_named(config["precision"])
        except InputError as error:
            raise TrialFailure("unsupported", str(error)) from error
        new_engine = engine_class(config.only(descriptor.knobs))
        if not descriptor.own_threads or config["flush_denormals"]:
            set_torch_knobs(config)
        imported = time.perf_counter()
        loaded = Features.load(features)
        material = Material(
            source=model,
            arrays=loaded.arrays,
            samples=sample_batches(loaded),
            calibration=calibration_batches(Features.load(calibration)) if calibration else (),
            threads=int(config["threads"]),
            instruction_sets=frozenset(instruction_sets),
            cache=Path(cache or os.path.join(self._workdir, "cache")),
            for_production=keep,
            own_pad_token=loaded.own_pad_token,
            work=loaded.work,
        )
        if self._group.count > 1:
            if self._group.index == 0:
                new_engine.write_artefacts(material)
            self._group.wait("exported")
        prepared = _prepare(new_engine, material)
        phases = {
            "start": alive_s,
            "import": imported - start,
            "prepare": time.perf_counter() - imported,
        }
        reference_outputs = None
        if reference is not None and os.path.exists(reference):
            with np.load(reference, allow_pickle=False) as arrays:
                logits = {name: arrays[name] for name in model.outputs}
            reference_outputs = ReferenceOutputs(
                arrays=logits, axes=output_axes(model.outputs), features=loaded
            )
        self._opened = _Opened(
            engine=new_engine,
            own_threads=descriptor.own_threads,
            prepared=prepared,
            features=loaded,
            outputs=output_axes(model.outputs),
            reference_outputs=reference_outputs,
            phases_s=phases,
        )
        return Opened(phases_s=phases, files=prepared.files, properties=dict(prepared.properties))

    def measure(self, *, point: Mapping[str, Scalar], rule: dict[str, Any]) -> Measurement | Screen:
        """Time `point`, the rest of the configuration, by `rule`. Write the outputs to the workdir.

        Returns a Screen if the first batches show that the point is too slow. With rung "rest",
        `rule` continues the measurement of the point that was measured last. Raises TrialFailure
        `protocol` if that was another point, or if nothing is open.

        Instances of a group share the batches if there are enough, and start together. An
        instance that has finished keeps running untimed until all have finished. So every timed
        pass runs beside all other instances.
        """
        opened, history = self._opened, self._history
        if opened is None:
            raise TrialFailure("protocol", "measure was asked before a successful open")
        start = time.perf_counter()
        stopping_rule, asked = StoppingRule(**rule), Config.of(point)
        own = self._plan_own_batches(opened, asked)
        history.measure_requests += 1
        selection: _TimedSelection | Screen
        if stopping_rule.rung == "answers":
            selection = self._without_warming_up(opened, own)
        elif stopping_rule.rung != "rest":
            selection = self._warm_up(opened, asked, own, stopping_rule, start)
            if isinstance(selection, Screen):
                return selection
        elif history.last_point != asked:
            raise TrialFailure("protocol", "rung `rest` needs the point that was measured last")
        else:
            selection = _TimedSelection(batches=slice(None), settled=True, warm_pass_s=None)
        history.last_point = asked
        return self._time_passes(opened, own, stopping_rule, selection, start)

    def _plan_own_batches(self, opened: _Opened, point: Config) -> _OwnBatches:
        """The batches of `point` that this instance runs."""
        features, group = opened.features, self._group
        whole = plan(features.lengths, max_seq_length=features.max_seq_length, **point)
        numbers = range(len(whole))[batches_of_instance(len(whole), group.index, group.count)]
        planned = [whole[number] for number in numbers]
        return _OwnBatches(
            numbers=numbers,
            planned=planned,
            batches=[features.batch(p.rows, p.width) for p in planned],
            workload_tokens=count_padded_tokens(whole),
        )

    def _without_warming_up(self, opened: _Opened, own: _OwnBatches) -> _TimedSelection:
        """All batches."""
        seen = self._seen_shapes(opened)
        if seen is not None:
            seen |= shapes_of(own.batches)
        return _TimedSelection(batches=slice(None), settled=True, warm_pass_s=None)

    def _warm_up(
        self,
        opened: _Opened,
        point: Config,
        own: _OwnBatches,
        rule: StoppingRule,
        start: float,
    ) -> _TimedSelection | Screen:
        """Warm up and select the batches to time. A Screen if every instance found it too slow."""
        history = self._history
        seen = self._seen_shapes(opened)
        known_pass_s = history.warm_points.get(point)
        share = own.tokens / own.workload_tokens

        def check_outputs(numbers: Sequence[int], outputs: Sequence[Logits]) -> None:
            if opened.reference_outputs is not None:
                planned = [own.planned[number] for number in numbers]
                opened.reference_outputs.check(planned, outputs)

        screen, too_slow = warm_up(
            WarmUp(
                call=opened.prepared.call,
                batches=own.batches,
                clock=time.perf_counter,
                seen_shapes=seen,
                known_pass_s=known_pass_s,
                process_is_warm=history.last_point is not None,
                screen_above_s=(
                    math.inf if rule.leader_s is None else SCREEN_RATIO * rule.leader_s * share
                ),
                check_outputs=check_outputs,
            )
        )
        if self._group.all_agree(f"hopeless-{history.measure_requests}", too_slow):
            return replace(
                screen,
                batches=tuple(own.numbers[number] for number in screen.batches),
                pass_s=screen.pass_s / share,
                phases_s={**opened.phases_s, "warm_up": time.perf_counter() - start},
            )
        selected = part_of_pass(len(own.planned), screen.pass_s, rule.part_s)
        batches, warm_pass_s = own.batches[selected], None
        if seen is not None and rule.rung != "first":
            run_new_shapes(opened.prepared.call, batches, seen)
        elif seen is not None and not shapes_of(batches) <= seen:
            # The first pass will run new shapes: estimate how long it would take warm.
            selected_tokens = count_padded_tokens(own.planned[selected])
            warm_pass_s = screen.pass_s * selected_tokens / own.tokens
            seen |= shapes_of(batches)
        if known_pass_s is None:
            history.warm_points[point] = screen.pass_s
        settled = known_pass_s is not None or screen.settled
        return _TimedSelection(batches=selected, settled=settled, warm_pass_s=warm_pass_s)

    def _time_passes(
        self,
        opened: _Opened,
        own: _OwnBatches,
        rule: StoppingRule,
        selection: _TimedSelection,
        start: float,
    ) -> Measurement:
        """Time passes beside the other instances of the group, and report them."""
        group, features, call = self._group, opened.features, opened.prepared.call
        request = self._history.measure_requests
        timed = own.planned[selection.batches]
        released_s = group.wait(f"warm-{request}")
        warm = time.perf_counter()
        passes, outputs, repeatable = measure(
            call,
            opened.outputs,
            timed,
            features,
            rule,
            instance=group.index,
            share=count_padded_tokens(timed) / own.workload_tokens,
            complete=len(timed) == len(own.planned),
            settled=selection.settled,
            warm_pass_s=selection.warm_pass_s,
        )
        measured = time.perf_counter()
        self._run_until_all_arrive(f"done-{request}", call, own.batches)
        if outputs is not None:
            np.savez(
                os.path.join(self._workdir, OUTPUTS_FILE),
                **outputs.arrays,  # type: ignore[arg-type]
            )
        return Measurement(
            examples=features.examples,
            features=len(features),
            tokens=int(features.lengths.sum()),
            padded_tokens=own.workload_tokens,
            batch_features=tuple(len(p.rows) for p in timed),
            passes=passes,
            phases_s={**opened.phases_s, "warm_up": warm - start, "measure": measured - warm},
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            shared_bytes=read_shared_bytes(),
            effective={
                **read_effective(torch_threads=not opened.own_threads),
                **opened.prepared.effective,
                "released_s": released_s,  # CLOCK_MONOTONIC
                "forked": self._forked,
            },
            outputs_digest=outputs.digest if outputs else "",
            outputs_repeatable=repeatable,
        )

    def _run_until_all_arrive(self, stage: str, call: Call, batches: Sequence[Batch]) -> None:
        """Arrive at `stage`, and run batches untimed until every instance has arrived."""
        self._group.arrive(stage)
        for batch in itertools.cycle(batches):
            if self._group.all_arrived(stage):
                break
            call(batch)

    def _seen_shapes(self, opened: _Opened) -> set[Shape] | None:
        """The shapes that the engine has run. None if it does not specialise by shape."""
        return self._history.seen_shapes if opened.engine.specialises_by_shape else None

    def serve(
        self, *, point: Mapping[str, Scalar], rows: list[int], arrivals_s: list[float]
    ) -> ServedRequests:
        """Answer requests for `rows` as they arrive. Needs `measure` of the point before, to warm
        the engine up. Raises TrialFailure `protocol` if nothing is open."""
        opened, history = self._opened, self._history
        if opened is None:
            raise TrialFailure("protocol", "serve was asked before a successful open")
        call, features, seen = opened.prepared.call, opened.features, self._seen_shapes(opened)
        asked = Config.of(point)
        if seen is not None:
            warm_up_shapes(call, features, point=asked, seen_shapes=seen)
        history.serve_requests += 1
        self._group.wait(f"serve-{history.serve_requests}")
        return serve(call, features, rows, arrivals_s, point=asked, seen_shapes=seen)


def _prepare(engine: Engine, material: Material) -> Prepared:
    """`engine.prepare`. What its library raises for this model is `unsupported`.

    Only float32 eager stays as it is: whatever it raises, no engine can run the model.
    """
    options = engine.options
    try:
        return engine.prepare(material)
    except TrialFailure:
        raise
    except Exception as error:
        baseline = (engines.BASELINE.name, precisions.BASELINE.name)
        if (options["mode"], options["precision"]) == baseline or is_out_of_memory(error):
            raise
        asked = f"mode={options['mode']}, precision={options['precision']}"
        traceback.print_exc()  # the log keeps what the one line below leaves out
        reason = f"{asked} does not run this model: {describe(error)}"
        raise TrialFailure("unsupported", reason) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What `open` prepared for `measure` and `serve`."""

    engine: Engine
    own_threads: bool  # as `EngineDescriptor.own_threads`
    prepared: Prepared
    features: Features
    outputs: Mapping[str, Axes]
    reference_outputs: ReferenceOutputs | None
    phases_s: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class _History:
    """What the process has done since it started. The counts number the stages of the group."""

    measure_requests: int = 0
    serve_requests: int = 0
    warm_points: dict[Config, float] = field(default_factory=dict)  # estimated seconds of a pass
    last_point: Config | None = None  # the point measured last
    seen_shapes: set[Shape] = field(default_factory=set)  # run by an engine that specialises


@dataclass(frozen=True, slots=True, kw_only=True)
class _OwnBatches:
    """The batches of one point that this instance runs: all of the workload's, or its share."""

    numbers: Sequence[int]  # of these batches in a pass over the whole workload
    planned: Sequence[PlannedBatch]
    batches: Sequence[Batch]
    workload_tokens: int  # padded tokens of the whole workload

    @property
    def tokens(self) -> int:
        """Padded tokens of these batches."""
        return count_padded_tokens(self.planned)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimedSelection:
    """The batches to time after warming up. `measure.measure` explains the other two fields."""

    batches: slice  # of the instance's own batches
    settled: bool
    warm_pass_s: float | None
