"""Evaluate a model as Hugging Face's run_qa.py, run_glue.py and run_ner.py do.

Flags, files and keys are the scripts'; any engine, stack and version of transformers can run.
The timed part is that of a search: padded batches to logits, after warm-up. Import, preparation
and warm-up are reported separately. `score` and `verify` judge a finished run instead.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from autotune.commands.search.settings import check_reachable, resolve_model
from autotune.driver import stacks
from autotune.driver.runner import Inputs, Outcome, ProcessRunner
from autotune.driver.start import start_worker
from autotune.host import Host, detect
from autotune.search.objective import features_per_s
from autotune.shared.engines import known_engines
from autotune.shared.errors import InputError, OutputError, SearchError, StackError
from autotune.shared.flags import ScriptFlag
from autotune.shared.objectives import DEFAULT
from autotune.shared.paths import kind_of
from autotune.shared.precisions import known_precisions
from autotune.shared.records import DEFAULT_STACK, Config, ModelFacts, StackFacts
from autotune.shared.stopping import ONE_PASS
from autotune.space import Surroundings, complete, knobs
from autotune.space.surroundings import Value
from autotune.store.folder import RunFolder, write
from autotune.tasks import task_named
from autotune.tasks.base import Task
from autotune.tasks.qa import QuestionAnswering
from autotune.tasks.workload import (
    NOTHING_KEPT,
    Kept,
    Workload,
    encode,
    inputs_of,
    kept_by,
    split,
    uncalibrated,
)

TIMEOUT_S = 24 * 3600.0
"""Timeout of preparation and one pass: evaluating a whole dataset may take hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The flags of the example script that say how to run. None or False: not given."""

    per_device_eval_batch_size: int | None = None
    pad_to_max_length: bool | None = None
    use_ipex: bool = False
    jit_mode_eval: bool = False
    torch_compile: bool = False
    bf16: bool = False
    bf16_full_eval: bool = False

    def given(self) -> dict[str, dict[str, Value]]:
        """Each given flag -> the knobs that it sets. Raises InputError if flags contradict."""
        found = {**self._engine(), **self._precision()}
        if self.per_device_eval_batch_size is not None:
            found["--per_device_eval_batch_size"] = {"batch_size": self.per_device_eval_batch_size}
        if self.pad_to_max_length is not None:
            padding = "max_length" if self.pad_to_max_length else "longest"
            found[f"--pad_to_max_length {self.pad_to_max_length}"] = {"padding": padding}
        return found

    def _gives(self, flag: ScriptFlag) -> bool:
        return bool(getattr(self, flag.name, False))

    def _engine(self) -> dict[str, dict[str, Value]]:
        """The flags that together select an engine -> its mode. Raises InputError for a mixture."""
        selecting = {
            engine.name: engine.script_flags
            for engine in known_engines().values()
            if engine.script_flags
        }
        given = {flag.option for flags in selecting.values() for flag in flags if self._gives(flag)}
        for name, flags in selecting.items():
            if {flag.option for flag in flags} == given:
                return {" ".join(flag.option for flag in flags): {"mode": name}}
        if given:
            raise InputError(f"{' and '.join(sorted(given))} are no engine together; drop one")
        return {}

    def _precision(self) -> dict[str, dict[str, Value]]:
        """The flag that asks for a precision -> its knobs. Raises InputError for two flags."""
        found: dict[str, dict[str, Value]] = {
            flag.option: {"precision": precision.name, **_knob_values(flag)}
            for precision in known_precisions().values()
            for flag in precision.script_flags
            if self._gives(flag)
        }
        if len(found) > 1:
            raise InputError(f"{' and '.join(found)} contradict each other; drop one")
        return found


def _knob_values(flag: ScriptFlag) -> dict[str, Value]:
    """The knobs that `flag` sets. The values of knobs are never floats."""
    return {name: value for name, value in flag.knobs if not isinstance(value, float)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation. `dataset` is a file or a dataset id; None for a length is the default of
    `config`, else the script's."""

    task: str
    model: str
    dataset: str
    output: Path
    flags: Flags
    config: Path | None = None
    stack: str | None = None
    calibration: str | None = None
    max_seq_length: int | None = None
    doc_stride: int | None = None
    max_eval_samples: int | None = None
    version_2_with_negative: bool = False
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The values of best.yaml; empty without --config. `run` is the folder that holds it."""

    values: Mapping[str, Value]
    run: RunFolder | None = None
    python: str | None = None
    max_seq_length: int | None = None
    doc_stride: int | None = None


def evaluate(asked: Evaluation, announce: Callable[[str], None]) -> dict[str, Any]:
    """Run the rows once, write what the example script writes, and return its metrics.

    Raises InputError (nothing is written), or SearchError where the engine fails.
    """
    task = task_named(asked.task)
    chosen = read_config(asked.config, task)
    flagged = asked.flags.given()
    check_agreement(flagged, chosen.values, asked.config)
    check_output(asked.output)
    dataset = task.load(asked.dataset, None)
    task = dataset.task
    if asked.version_2_with_negative and isinstance(task, QuestionAnswering):
        task = task.with_unanswerable()
    # Rows of the dataset never calibrate: the engine is to be that of --config, or as asked.
    calibration = [] if asked.calibration is None else task.load(asked.calibration, None).rows
    first = dataset.rows[: asked.max_eval_samples]  # the script's, not rows spread over the dataset
    rows = split(first, 0, calibration)
    model, host = resolve_model(asked.model), detect()
    check_reachable(model)
    with tempfile.TemporaryDirectory(prefix="autotune-evaluate-") as temporary:
        folder = RunFolder(Path(temporary))
        name, python = interpreter(asked.stack, chosen)
        found = stacks.examine({name: python}, host, folder.work)
        length = asked.max_seq_length or chosen.max_seq_length or script_max_seq_length(task)
        stride = asked.doc_stride if asked.doc_stride is not None else chosen.doc_stride
        announce(f"encoding {len(rows.scored)} examples")
        with start_worker(host, python, folder.work / "encode") as worker:
            workload = encode(
                worker,
                task=task,
                source=task.source(
                    model,
                    revision=asked.revision,
                    trust_remote_code=asked.trust_remote_code,
                    allow_pickle=asked.allow_pickle,
                ),
                rows=rows.scored,
                calibration=rows.calibration,
                max_seq_length=length,
                doc_stride=(task.default_doc_stride or 0) if stride is None else stride,
                folder=folder,
            )
        config = configure(chosen, flagged, task, name, workload.facts, host)
        kept = NOTHING_KEPT
        if asked.calibration is None:
            kept = kept_for(chosen, workload.facts, name, python)
        inputs = inputs_of(folder, workload.source, host, kept=kept)
        refusal = found[name].refusal(config) or uncalibrated(config, inputs, kept)
        if refusal is not None:
            raise StackError(refusal)
        announce(f"running {knobs.describe(config)}" + words_of(kept))
        outcome = run(config, workload, inputs, folder, found, host)
    if outcome.measurement is None:
        assert outcome.failure is not None
        lines = outcome.log.strip().splitlines()
        words = f" ({lines[-1][:300]})" if lines and outcome.failure.kind == "crash" else ""
        raise SearchError(
            f"{knobs.describe(config)}: {outcome.failure.kind}: {outcome.failure.detail}{words}"
        )
    metrics = metrics_of(workload, config, outcome)
    answers = workload.task.script_files(workload.rows, workload.features, outcome.outputs)
    save(asked.output, metrics, answers)
    return metrics


def script_max_seq_length(task: Task) -> int:
    """The example script's default length; 0 if the script takes the model's longest input."""
    cuts = task.script is None or task.script.cuts_by_default
    return task.default_max_seq_length if cuts else 0


def check_output(output: Path) -> None:
    """Raise OutputError if the results could not be written to the folder `output`.

    Only a file that is written shows that: root may write to /proc by its permissions.
    """
    if kind_of(output, "--output_dir", OutputError) == "file":
        raise OutputError(f"--output_dir {output} is a file; pass a folder")
    whole = output.absolute()
    missing = [
        p for p in (whole, *whole.parents) if kind_of(p, "--output_dir", OutputError) is None
    ]
    try:
        whole.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=whole).close()
    except OSError as error:
        raise OutputError(
            f"--output_dir {output} cannot be written ({error.strerror}); pass a folder you may "
            "write to"
        ) from error
    finally:
        for folder in missing:  # nothing is left where the evaluation is refused later
            with contextlib.suppress(OSError):
                folder.rmdir()


def read_config(path: Path | None, task: Task) -> Chosen:
    """The values of best.yaml; `path` is the file or its folder. Raises InputError."""
    if path is None:
        return Chosen(values={})
    file = path / "best.yaml" if kind_of(path, "--config") == "folder" else path
    try:
        best = yaml.safe_load(file.read_text(encoding="utf-8"))
        chosen = Chosen(
            values={str(k): v for k, v in best["config"].items()},
            python=str(best["stack"]["python"]),
            max_seq_length=int(best["max_seq_length"]),
            doc_stride=int(best["doc_stride"]),
            run=RunFolder(file.parent),
        )
        made_for = best["task"]
    except FileNotFoundError:
        raise InputError(f"--config {path}: {file} does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path} cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"--config {path} is not the best.yaml of a search: {error}") from error
    if made_for != task.name:
        raise InputError(f"--config {path} is for {made_for}, this command runs {task.name}")
    unknown = sorted(set(chosen.values) - set(knobs.KNOBS))
    if unknown:
        raise InputError(f"--config {path} has knobs this version does not know: {unknown[0]}")
    return chosen


def check_agreement(
    flagged: Mapping[str, Mapping[str, Value]], values: Mapping[str, Value], path: Path | None
) -> None:
    """Raises InputError if a flag contradicts `--config`."""
    if path is None:
        return
    for flag, stands_for in flagged.items():
        for name, value in stands_for.items():
            if values.get(name) != value:
                raise InputError(
                    f"{flag} asks for {name}={value}, --config {path} for "
                    f"{name}={values.get(name, 'no such knob')}; drop one of the two"
                )


def interpreter(stack: str | None, chosen: Chosen) -> tuple[str, str]:
    """Name and path of the interpreter to run: --stack, else that of the configuration."""
    name = str(chosen.values.get("stack", DEFAULT_STACK))
    if stack is not None:
        found = stacks.parse([stack])
        return next((n, p) for n, p in reversed(found.items()))
    if chosen.python is None:
        return DEFAULT_STACK, stacks.parse([])[DEFAULT_STACK]
    if kind_of(Path(chosen.python), "--config: the interpreter", StackError) != "file":
        raise StackError(
            f"the configuration's interpreter {chosen.python} is not here; pass --stack"
        )
    return name, chosen.python


def configure(
    chosen: Chosen,
    flagged: Mapping[str, Mapping[str, Value]],
    task: Task,
    stack: str,
    facts: ModelFacts,
    host: Host,
) -> Config:
    """The configuration of best.yaml, or the one that the flags set."""
    if chosen.values:
        return Config.of({**chosen.values, "stack": stack})
    wanted: dict[str, Value] = {"stack": stack}
    if task.script is not None and not task.script.pads_by_default:
        wanted["padding"] = "longest"
    for stands_for in flagged.values():
        wanted.update(stands_for)
    where = Surroundings(
        cores=host.cores,
        attentions=facts.attentions,
        modes={},
        objective=DEFAULT.name,
        axes=task.input_axes,
    )
    return complete(where, wanted)


def kept_for(chosen: Chosen, facts: ModelFacts, stack: str, python: str) -> Kept:
    """What the run of `chosen` keeps and this evaluation may use.

    That is nothing for another model: its engine would give the old model's answers. It is no
    engine for another interpreter. Raises ResumeError if the run's manifest is damaged.
    """
    run = chosen.run
    if run is None or not run.manifest.exists():  # best.yaml was copied without its run
        return NOTHING_KEPT
    if run.read_manifest().get("model", {}).get("digest") != facts.digest:
        return NOTHING_KEPT
    kept = kept_by(run, stack)
    return kept if python == chosen.python else replace(kept, engine=None)


def words_of(kept: Kept) -> str:
    """From what the engine is prepared, for people; empty if from the model alone."""
    if kept.engine is not None:
        return f", from the engine in {kept.engine}"
    return f", calibrated on the rows of {kept.calibration}" if kept.calibration else ""


def run(
    config: Config,
    workload: Workload,
    inputs: Inputs,
    folder: RunFolder,
    found: Mapping[str, StackFacts],
    host: Host,
) -> Outcome:
    """One pass over the workload."""
    runner = ProcessRunner(
        host=host,
        stacks=found,
        inputs=inputs,
        expected=workload.expected,
        workdir=folder.work / "trial",
        timeout_s=TIMEOUT_S,
    )
    try:
        return runner.run(config, ONE_PASS)
    finally:
        runner.close()


def metrics_of(workload: Workload, config: Config, outcome: Outcome) -> dict[str, Any]:
    """The keys and rounding of the Trainer's eval_results.json, and autotune's own keys."""
    task, measurement = workload.task, outcome.measurement
    assert measurement is not None
    predictions = task.decode(workload.rows, workload.features, outcome.outputs)
    scale = 1.0 if task.script is not None and task.script.metrics_in_percent else 100.0
    scores = task.script_metrics(workload.rows, predictions)
    if scores is None:
        scores = {n: s / scale for n, s in task.score(workload.rows, predictions).items()}
    metrics: dict[str, Any] = {f"eval_{name}": score for name, score in scores.items()}
    batch_size = int(config.get("batch_size", 0) or 8)
    loss = task.loss(workload.rows, outcome.outputs, workload.features, batch_size)
    if loss is not None:
        metrics["eval_loss"] = loss
    rate = features_per_s(measurement)
    runtime_s = measurement.features / rate
    phases = measurement.phases_s
    metrics |= {
        "eval_import_time": round(phases.get("import", 0.0), 4),
        "eval_model_preparation_time": round(phases.get("prepare", 0.0), 4),
        "eval_warm_up_time": round(phases.get("warm_up", 0.0), 4),
        "eval_runtime": round(runtime_s, 4),
        "eval_samples": measurement.features,
        "eval_samples_per_second": round(rate, 3),
        "eval_steps_per_second": round(len(measurement.batch_features) / runtime_s, 3),
    }
    return metrics


def save(output: Path, metrics: Mapping[str, Any], answers: Mapping[str, Any]) -> None:
    """Write the files; `all_results.json` keeps what other runs left in it, as the Trainer's.

    Raises OutputError.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--output_dir {output} cannot be written: {error.strerror}") from error
    everything = output / "all_results.json"
    kept: dict[str, Any] = {}
    if kind_of(everything, "--output_dir", OutputError) is not None:
        try:
            kept = json.loads(everything.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{everything} cannot be read: {error}") from error
    for name, content in {
        **answers,
        "eval_results.json": dict(metrics),
        "all_results.json": {**kept, **metrics},
    }.items():
        ordered = name.endswith("results.json")
        text = json.dumps(content, indent=4, sort_keys=ordered, ensure_ascii=True)
        write(output / name, text + ("" if ordered else "\n"))
