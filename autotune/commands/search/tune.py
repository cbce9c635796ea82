"""The `search` command without its printing: settings in, files of a run out."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from autotune.commands.search.context import PACE, Pace, Run
from autotune.commands.search.faults import explained
from autotune.commands.search.finish import finish, write_failure
from autotune.commands.search.manifest import check_same, describe_run, run_id, space_digest
from autotune.commands.search.more_rows import MoreRowsJudge
from autotune.commands.search.references import StoredReferences
from autotune.commands.search.settings import (
    DEFAULT_TIME_BUDGET_S,
    EAGER_EFFICIENCY,
    Settings,
    affordable_rows,
    check_reachable,
    dataset_of,
    find_space,
    load_rows,
    resolve_model,
)
from autotune.driver import stacks
from autotune.driver.forkserver import ForkServers, modeling_modules
from autotune.driver.process import WorkerProcess
from autotune.driver.runner import ProcessRunner
from autotune.driver.start import start_worker
from autotune.host import Host, detect
from autotune.search.bounds import Bounds, Peaks, peaks
from autotune.search.loop import Search
from autotune.search.objective import objective_named
from autotune.search.plan import SearchPlan
from autotune.search.progress import Listener
from autotune.search.ranking import SEARCHED, leaders, measured
from autotune.search.rates import for_objective
from autotune.search.result import Result
from autotune.search.samplers import check_sampler, make_sampler, sampler_seed
from autotune.search.study import Study, open_storage
from autotune.shared.errors import (
    InputError,
    SearchError,
    SpaceError,
    StackError,
)
from autotune.shared.paths import shell_word
from autotune.shared.records import DEFAULT_STACK, Config, StackFacts
from autotune.shared.urls import CREDENTIALS_MASK
from autotune.space import (
    baseline,
    by_length,
    compile_space,
    dynamic_baseline,
    load_space,
    parse_overrides,
)
from autotune.store import learned
from autotune.store.claim import Claim, claim
from autotune.store.folder import RunFolder, default_path
from autotune.store.journal import Journal
from autotune.tasks import task_named
from autotune.tasks.files import is_local
from autotune.tasks.gate import Gate
from autotune.tasks.workload import UNCALIBRATED, RowSets, Workload, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A search that left its results in `folder`."""

    folder: RunFolder
    report: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A run's folder and processes, which `Tuning.run` opens and closes."""

    folder: RunFolder
    fresh: bool
    """Whether the run starts anew; False where it is resumed."""
    journal: Journal
    host: Host
    fork_servers: ForkServers


class Tuning:
    """The `search` command. `run` may be called once."""

    def __init__(
        self,
        settings: Settings,
        *,
        output: Path | None,
        resume: bool,
        command_line: list[str],
        listener: Listener,
        announce: Callable[[str], None],
        pace: Pace = PACE,
    ) -> None:
        if resume and output is None:
            raise InputError("--resume needs the run to resume: pass --output reports/<run>")
        if settings.storage is not None and CREDENTIALS_MASK in settings.storage:
            raise InputError("--storage: the password is not stored with a run; pass it again")
        self._settings = settings
        self._command_line = command_line
        self._listener = listener
        self._announce = announce
        self._pace = pace
        self._resume = resume
        check_sampler(settings.sampler)
        self._task = task_named(settings.task)
        self._objective = objective_named(settings.objective)
        self._overrides = parse_overrides(settings.overrides)
        self._space_path = find_space(settings.space or self._task.name)
        self._space_file = load_space(self._space_path)
        if self._space_file.task != self._task.name:
            raise SpaceError(
                f"{self._space_path} is a space for task {self._space_file.task}, "
                f"not {self._task.name}"
            )
        self._model = resolve_model(settings.model)
        self._pythons = stacks.parse(settings.stacks)
        self._output = output or default_path(settings.model, settings.task, datetime.now())

    def run(self) -> Finished:
        """Raises InputError (nothing is left half-written) or SearchError."""
        self._began = time.monotonic()
        check_reachable(self._model)
        named = dataset_of(self._settings, self._task)
        if not is_local(named):
            why = "" if self._settings.dataset else ", the default: no --dataset is given"
            self._announce(f"fetching the dataset {named} from the hub{why}")
        dataset, rows = load_rows(self._settings, self._task)
        self._announce(f"reading {len(dataset.rows)} rows: {dataset.reading}")
        self._task = dataset.task
        host = detect()
        claimed = claim(self._output, resume=self._resume)
        folder, journal = claimed.folder, claimed.journal
        if self._resume and claimed.fresh:
            self._announce(f"{self._output} holds no run yet; starting it")
        try:
            with explained(folder):
                return self._open_and_run(claimed, host, rows)
        except (InputError, KeyboardInterrupt) as error:
            if journal.trials and isinstance(error, KeyboardInterrupt):
                self._announce(
                    "finished trials are kept; continue with --resume --output "
                    f"{shell_word(folder.path)}"
                )
            elif claimed.fresh and not journal.trials:
                claimed.give_up()
            raise
        finally:
            folder.clean()
            journal.close()

    def _open_and_run(self, claimed: Claim, host: Host, rows: RowSets) -> Finished:
        folder = claimed.folder
        with ForkServers(folder.work / "parents", memory_bytes=host.memory_bytes) as fork_servers:
            opened = Opened(
                folder=folder,
                fresh=claimed.fresh,
                journal=claimed.journal,
                host=host,
                fork_servers=fork_servers,
            )
            return self._run(opened, rows)

    def _run(self, opened: Opened, rows: RowSets) -> Finished:
        opened.folder.clean()
        workload, rows, found, bounds = self._encode_and_probe(opened, rows)
        opened.fork_servers.preload(modeling_modules(workload.facts.model_type))
        run = self._describe(opened, workload, found, bounds)
        storage = open_storage(self._settings.storage, run.folder.study)
        if opened.fresh:
            run.folder.write_manifest(run.manifest)
        else:
            check_same(run.folder.read_manifest(), run.manifest)
        if self._settings.limits_unset:
            minutes = DEFAULT_TIME_BUDGET_S / 60
            self._announce(f"no --trials and no --time-budget: searching for {minutes:.0f} minutes")
        runner = run.runner(
            opened.fork_servers,
            inputs=run.compared_inputs,
            expected=workload.expected,
            workdir=run.folder.work / "trial",
        )
        try:
            result, elapsed_s = self._search(run, opened, rows, storage, runner)
        except SearchError as error:
            write_failure(run.folder, run.manifest, opened.journal.trials, str(error))
            raise SearchError(f"{error} ({run.folder.report_html})") from error
        if result.interrupted:
            self._announce(
                "interrupted: writing the report of the finished trials; again to stop at once"
            )
        self._learn(run, result)
        report = finish(
            run,
            result,
            elapsed_s=elapsed_s,
            runner=runner,
            exported=runner.exported(result.best.config),
        )
        return Finished(folder=run.folder, report=report)

    def _encode_and_probe(
        self, opened: Opened, rows: RowSets
    ) -> tuple[Workload, RowSets, dict[str, StackFacts], Bounds | None]:
        """The encoded workload and its rows, what each stack can run, and the host's limit for the
        model.

        The stacks are examined while the workload is encoded. If eager float32 would take too long
        for all rows, fewer are encoded again.
        """
        settings, task, host, folder = self._settings, self._task, opened.host, opened.folder
        rows = self._rows_as_before(opened, rows)
        self._announce(
            f"encoding {len(rows.scored)} examples and probing {', '.join(self._pythons)}"
        )
        with (
            stacks.Examination(self._pythons, host, folder.work) as examination,
            start_worker(
                host, sys.executable, folder.work / "encode", opened.fork_servers
            ) as worker,
        ):
            encode_rows = functools.partial(
                encode,
                worker,
                task=task,
                source=task.source(
                    self._model,
                    revision=settings.revision,
                    trust_remote_code=settings.trust_remote_code,
                    allow_pickle=settings.allow_pickle,
                ),
                calibration=rows.calibration,
                max_seq_length=settings.max_seq_length,
                doc_stride=settings.doc_stride,
                folder=folder,
            )
            encode_all = functools.partial(encode_rows, rows=rows.scored)
            workload, found = self._await_both(encode_all, examination, bool(rows.calibration))
            if workload.facts.note:
                self._announce(workload.facts.note)
            rates = self._peak_rates(worker, host, found, workload)
            bounds = self._bounds(workload, rates)
            every = most = len(rows.scored)
            if bounds is not None and opened.fresh:
                most = affordable_rows(settings, every, bounds.eager_s() / EAGER_EFFICIENCY)
            if most < every:
                self._announce(
                    f"eager float32 needs long for {every} rows: searching on {most}; the winner "
                    "is judged on as many as there is time for"
                )
                rows = rows.fewer(most)
                workload = encode_rows(rows=rows.scored)
                bounds = self._bounds(workload, rates)
            return workload, rows, found, bounds

    def _rows_as_before(self, opened: Opened, rows: RowSets) -> RowSets:
        """The rows of a resumed search: as many as it scored before, unless the user says how
        many."""
        if opened.fresh or self._settings.max_samples is not None:
            return rows
        workload = opened.folder.read_manifest().get("workload", {})
        return rows.fewer(int(workload.get("examples", 0)))

    def _await_both(
        self, encode_rows: Callable[[], Workload], examination: stacks.Examination, calibrated: bool
    ) -> tuple[Workload, dict[str, StackFacts]]:
        """The workload and what each stack can run.

        An unusable mode is reported before an error of the encoding, which it may explain.
        """
        failed: InputError | None = None
        try:
            workload = encode_rows()
        except InputError as error:
            failed = error
        found = examination.wait()
        if not calibrated:
            found = {name: stacks.without_calibration(f, UNCALIBRATED) for name, f in found.items()}
        self._check_modes(found)
        if failed is not None:
            raise failed
        return workload, found

    def _describe(
        self,
        opened: Opened,
        workload: Workload,
        found: Mapping[str, StackFacts],
        bounds: Bounds | None,
    ) -> Run:
        """The search's context: the compiled space and the manifest added to what is known."""
        settings, host = self._settings, opened.host
        surroundings = stacks.surroundings(
            host,
            found,
            attentions=workload.facts.attentions,
            objective=self._objective.kind,
            axes=self._task.input_axes,
        )
        seeds = self._seeds(opened, workload)
        base, dynamic = baseline(surroundings), dynamic_baseline(surroundings)
        reference = by_length(base) if workload.facts.padding_neutral else base
        space = compile_space(
            self._space_file,
            surroundings,
            overrides=self._overrides,
            dropped=settings.dropped,
            first=seeds,
        )
        manifest = describe_run(
            settings,
            run=run_id(None if opened.fresh else opened.folder.read_manifest()),
            output=self._output,
            command_line=self._command_line,
            workload=workload,
            objective=self._objective.name,
            baseline=base,
            dynamic=dynamic,
            reference=reference,
            space_name=self._space_path.name,
            space=space,
            space_digest=space_digest(self._space_file, space),
            seeds=seeds,
            host=host,
            found=found,
        )
        return Run(
            settings=settings,
            objective=self._objective,
            folder=opened.folder,
            host=host,
            stacks=found,
            workload=workload,
            bounds=bounds,
            baseline=base,
            dynamic=dynamic,
            reference=reference,
            space=space,
            manifest=manifest,
            pace=self._pace,
            announce=self._announce,
        )

    def _seeds(self, opened: Opened, workload: Workload) -> list[Config]:
        """Configurations that earlier searches say to try first.

        A resumed run keeps the seeds in its manifest.
        """
        if not opened.fresh:
            return [Config.of(values) for values in opened.folder.read_manifest().get("seeds", ())]
        if not self._settings.learned:
            return []
        return learned.choose_seeds(
            learned.recall(opened.host),
            workload.facts,
            task=self._task.name,
            objective=self._objective.kind,
        )

    def _learn(self, run: Run, result: Result) -> None:
        """Remember the leaders for the next search on this host."""
        if not self._settings.learned or not result.significant:
            return
        ranked = leaders(result.trials, self._objective, SEARCHED)
        chosen = learned.pick_leaders([result.best.config, *(trial.config for trial in ranked)])
        by_config = {trial.config: trial for trial in ranked}
        speedups = [
            self._objective.ratio(measured(by_config[config]), measured(result.trials[0]))
            for config in chosen
        ]
        learned.remember(
            run.host,
            learned.Finding(
                created=run.manifest["created"],
                model=self._settings.model,
                model_type=run.workload.facts.model_type,
                parameters=run.workload.facts.parameters,
                task=self._task.name,
                objective=self._objective.kind,
                configs=tuple(chosen),
                speedups=tuple(speedups),
            ),
        )

    def _peak_rates(
        self,
        worker: WorkerProcess,
        host: Host,
        found: Mapping[str, StackFacts],
        workload: Workload,
    ) -> Peaks | None:
        """The peak rates of the host. None if they cannot be measured, or if nothing needs them."""
        if workload.facts.work is None:
            return None
        try:
            return peaks(worker, host, found[DEFAULT_STACK])
        except StackError as error:
            self._announce(str(error))
            return None

    def _bounds(self, workload: Workload, rates: Peaks | None) -> Bounds | None:
        """The host's limit for this model. None, and nothing is ruled out, if it is not known."""
        if workload.facts.work is None or rates is None:
            return None
        return Bounds(
            polynomial=workload.facts.work,
            peaks=rates,
            lengths=workload.features.lengths,
            max_seq_length=self._settings.max_seq_length,
        )

    def _check_modes(self, found: Mapping[str, StackFacts]) -> None:
        """Refuse a mode the user named that cannot run, before the model is loaded."""
        for mode in self._overrides.get("mode", []):
            reasons = [r for f in found.values() for r in f.modes.get(str(mode), {}).values()]
            if reasons and all(reason is not None for reason in reasons):
                raise SpaceError(f"--set mode={mode}: {reasons[0]}")

    def _search(
        self,
        run: Run,
        opened: Opened,
        rows: RowSets,
        storage: Any,
        runner: ProcessRunner,
    ) -> tuple[Result, float]:
        """The search's result, and the seconds that it took."""
        folder, workload, settings = run.folder, run.workload, run.settings
        journal, fork_servers = opened.journal, opened.fork_servers
        gate = Gate(
            task=workload.task,
            rows=workload.rows,
            features=workload.features,
            rule=settings.gate_rule,
        )
        run_name = f"{folder.path.resolve()}#{run.manifest['run']}"
        search = Search(
            SearchPlan(
                space=run.space,
                baseline=run.baseline,
                dynamic=run.dynamic,
                reference=run.reference,
                limits=replace(settings.limits, finals=run.pace.finals, split=run.pace.split),
                max_drop=settings.max_accuracy_drop,
                seed=settings.seed,
                bounds=run.bounds,
                spent_s=time.monotonic() - self._began,
            ),
            study=Study(
                run.space,
                storage=storage,
                group=self._study_group(workload, run.host),
                sampler=make_sampler(
                    settings.sampler,
                    run.space,
                    seed=sampler_seed(
                        settings.seed + len(journal.trials),
                        shared_by=run_name if settings.storage is not None else None,
                    ),
                    run=run_name,
                    host=run.host.id,
                ),
                maximize=self._objective.maximize,
                run=run_name,
                host=run.host.id,
            ),
            runner=for_objective(
                self._objective,
                runner,
                workload.expected.features,
                seed=settings.seed,
                trials=journal.trials,
            ),
            gate=gate,
            journal=journal,
            objective=self._objective,
            references=StoredReferences(folder.reference, workload, gate),
            more_rows=MoreRowsJudge(run, rows.further, fork_servers) if rows.further else None,
            listener=self._listener,
        )
        return search.run(), search.elapsed_s

    def _study_group(self, workload: Workload, host: Host) -> str:
        """Searches of one workload, host, objective and accuracy limit share their trials."""
        limit = f"{self._settings.max_accuracy_drop:g}"
        return f"{workload.id}-{host.id}-{self._objective.name}-{limit}"
