"""Stacks: Python interpreters with their own torch, named by the user or created here."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from packaging.requirements import Requirement

from autotune.driver import probes
from autotune.driver.process import WorkerProcess
from autotune.driver.start import ask_for_probe, probed, start_worker
from autotune.host import Host, detect
from autotune.host.libraries import REMEDIES
from autotune.shared.axes import BATCH, WIDTH
from autotune.shared.engines import known_engines
from autotune.shared.errors import InputError, StackError
from autotune.shared.instructions import has_vnni
from autotune.shared.paths import kind_of, written
from autotune.shared.precisions import known_precisions
from autotune.shared.records import DEFAULT_STACK, StackFacts
from autotune.space import Surroundings
from autotune.space.knobs import KNOBS, Knob
from autotune.store import cache

DISTRIBUTION = "autotune-cpu"
STACK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")
OTHER_EXTRAS = ("torch", "openmp")
"""What `create` can install besides the extras of engines."""
COMPLETE_MARKER = ".complete"
"""Name of the file that `create` writes last. A folder without this file is unfinished."""


def folder() -> Path:
    """The folder of all created stacks."""
    return cache.folder() / "stacks"


def created() -> dict[str, str]:
    """The stacks that `create` finished: name -> interpreter."""
    try:
        complete = sorted(folder().glob(f"*/{COMPLETE_MARKER}"))
    except OSError:  # a cache that cannot be read holds no stacks
        return {}
    return {path.parent.name: str(path.parent / "bin" / "python") for path in complete}


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """The stacks named by the values of `--stack`: name -> interpreter.

    A value is NAME=PYTHON, or the NAME of a created stack. The result always holds the stack that
    runs autotune, under DEFAULT_STACK. Raises InputError.
    """
    stacks = {DEFAULT_STACK: sys.executable}
    created_stacks = created()
    for argument in arguments:
        name, equals, python = argument.partition("=")
        if not STACK_NAME.fullmatch(name):
            raise InputError(
                f"--stack takes NAME=PYTHON; NAME has letters, digits, . _ or -; got {argument!r}"
            )
        if name in stacks:
            raise InputError(f"--stack {name}: that name is taken; choose another")
        if not equals:
            if name not in created_stacks:
                raise InputError(
                    f"--stack {name}: no such stack; created stacks: "
                    f"{', '.join(created_stacks) or 'none'}; "
                    "pass NAME=PYTHON, or create the stack with autotune stack create"
                )
            python = created_stacks[name]
        what = f"--stack {name}"
        path = written(python, what)
        if kind_of(path, what) == "folder" and kind_of(path / "bin" / "python", what) == "file":
            path = path / "bin" / "python"
        if kind_of(path, what) != "file" or not os.access(path, os.X_OK):
            raise InputError(f"--stack {argument}: {path} is not a Python interpreter")
        stacks[name] = os.path.abspath(path)  # not resolved: the python of a venv is a link
    return stacks


class Examination:
    """Finds out what each interpreter can run.

    An interpreter that has not changed since an earlier probe is not probed again, unless
    `afresh`. The other probes import all packages, which takes seconds. They start when this
    object is made, and `wait` waits for them. A context manager: on leaving, probes that are
    still running are ended.
    """

    def __init__(
        self, stacks: Mapping[str, str], host: Host, workdir: Path, *, afresh: bool = False
    ) -> None:
        """Scratch files go to `workdir`. Raises StackError if an interpreter cannot be started."""
        self._facts: dict[str, StackFacts] = {}
        self._running: dict[str, tuple[WorkerProcess, str | None]] = {}  # worker and probe key
        self._names = list(stacks)
        try:
            for name, python in stacks.items():
                key = probes.key(python, host)
                remembered = None if afresh or key is None else probes.recall(key)
                if remembered is not None:
                    self._facts[name] = remembered
                    continue
                with _naming_stack(name):
                    worker = start_worker(host, python, workdir / f"probe-{name}")
                    self._running[name] = worker, key
                    ask_for_probe(worker, host)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> dict[str, StackFacts]:
        """Wait for all probes, and return what each stack can run.

        Raises StackError if a probe fails. A stack other than the default one is also an error if
        its IPEX does not match its torch: the search must not drop IPEX silently.
        """
        for name in list(self._running):
            worker, key = self._running[name]
            with _naming_stack(name):
                self._facts[name] = probed(worker)
            if key is not None:
                probes.remember(key, self._facts[name])
            self._running.pop(name)[0].close()
        for name, facts in self._facts.items():
            mismatched = facts.ipex is not None and "intel-extension-for-pytorch" in facts.versions
            if mismatched and name != DEFAULT_STACK:
                raise StackError(f"--stack {name}: {facts.ipex}")
        return {name: self._facts[name] for name in self._names}

    def close(self) -> None:
        while self._running:
            self._running.popitem()[1][0].close()


@contextlib.contextmanager
def _naming_stack(name: str) -> Iterator[None]:
    """Put `--stack NAME` before the message of a StackError, except for the default stack."""
    try:
        yield
    except StackError as error:
        if name == DEFAULT_STACK:
            raise
        raise StackError(f"--stack {name}: {error}") from error


def examine(
    stacks: Mapping[str, str], host: Host, workdir: Path, *, afresh: bool = False
) -> dict[str, StackFacts]:
    """What each interpreter can run: make an `Examination` and wait for it. Raises StackError."""
    with Examination(stacks, host, workdir, afresh=afresh) as examination:
        return examination.wait()


def fingerprints() -> dict[str, dict[str, Any]]:
    """The interpreter and package versions of every created stack, by name.

    A stack that cannot be probed has an `error` and no versions.
    """
    host = detect()
    entries: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="autotune-") as workdir:
        for name, python in created().items():
            entry: dict[str, Any] = {"python": python, "versions": {}}
            try:
                facts = examine({name: python}, host, Path(workdir))[name]
                entry["versions"] = {"python": facts.python_version, **facts.versions}
            except StackError as error:
                entry["error"] = str(error)
            entries[name] = entry
    return entries


def without_calibration(facts: StackFacts, reason: str) -> StackFacts:
    """`facts` with all precisions that need calibration refused for `reason`."""
    calibrated = [name for name, one in known_precisions().items() if one.calibrated]
    modes = {
        mode: {
            name: reason if name in calibrated and refusal is None else refusal
            for name, refusal in refusals.items()
        }
        for mode, refusals in facts.modes.items()
    }
    return replace(facts, modes=modes)


def missing_settings(
    host: Host, facts_by_stack: Mapping[str, StackFacts]
) -> dict[str, dict[bool | int | str, str]]:
    """Settings of process knobs that this host lacks: knob -> value -> reason and remedy."""
    missing: dict[str, dict[bool | int | str, str]] = {
        "allocator": {
            name: REMEDIES[name] for name in ("jemalloc", "tcmalloc") if name not in host.libraries
        },
        "openmp": {} if "gnu" in host.libraries else {"gnu": REMEDIES["gnu"]},
    }
    if all(facts.libiomp5 is None for facts in facts_by_stack.values()):
        missing["openmp"]["intel"] = REMEDIES["intel"]
    if host.huge_pages_refused is not None:
        missing["huge_pages"] = {True: host.huge_pages_refused}
    return missing


def missing_precisions(
    knob: Knob, facts_by_stack: Mapping[str, StackFacts]
) -> dict[bool | int | str, str]:
    """Values that cannot run here, of a knob that holds precisions: value -> reason.

    A value of `int8_rest`, for example, is missing if it runs on no stack, in no mode that can run
    int8.
    """
    missing = dict[bool | int | str, str]()
    refusals_where_active = [
        refusals
        for facts in facts_by_stack.values()
        for mode in knob.needs["mode"]
        if (refusals := facts.modes.get(mode))
        and any(refusals.get(needed, "") is None for needed in knob.needs.get("precision", ()))
    ]
    for precision in knob.allowed or ():
        reasons = [
            refusals.get(str(precision), "unknown to this stack")
            for refusals in refusals_where_active
        ]
        if reasons and None not in reasons:
            missing[precision] = str(reasons[-1])
    return missing


def surroundings(
    host: Host,
    facts_by_stack: Mapping[str, StackFacts],
    *,
    attentions: tuple[str, ...],
    objective: str,
    axes: tuple[str, ...] = (BATCH, WIDTH),
) -> Surroundings:
    """What a search space depends on: the host, its stacks, the model and the objective."""
    return Surroundings(
        cores=host.cores,
        sockets=host.sockets,
        nodes=host.nodes,
        vnni=has_vnni(host.instruction_sets),
        attentions=attentions,
        modes={name: facts.modes for name, facts in facts_by_stack.items()},
        objective=objective,
        axes=axes,
        missing={
            **missing_settings(host, facts_by_stack),
            **{
                name: missing_precisions(knob, facts_by_stack)
                for name, knob in KNOBS.items()
                if knob.holds_precision
            },
        },
    )


def known_extras() -> dict[str, str]:
    """What `create` can install: extra -> the distribution whose metadata list its packages."""
    found: dict[str, str] = {}
    for engine in known_engines().values():
        if engine.extra is not None:
            brings = DISTRIBUTION if engine.file is None else engine.file.distribution
            found.setdefault(engine.extra, brings)
    return {**found, **dict.fromkeys(OTHER_EXTRAS, DISTRIBUTION)}


def requirements(extras: Sequence[str]) -> list[str]:
    """The requirements that pip installs for `extras`, from the metadata of who brings them.

    Raises InputError for an unknown extra.
    """
    known = known_extras()
    unknown = [extra for extra in extras if extra not in known]
    if unknown or not extras:
        raise InputError(
            f"--extra must be one of {', '.join(known)}; got {unknown[0] if unknown else 'none'}"
        )
    selected = []
    for extra in extras:
        for line in importlib.metadata.requires(known[extra]) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": ""}):
                continue  # a requirement of the package itself
            if marker.evaluate({"extra": extra}):
                requirement.marker = None
                selected.append(str(requirement))
    return [*dict.fromkeys(selected)]


def create(name: str, extras: Sequence[str], announce: Callable[[str], None]) -> str:
    """Create a virtual environment with the packages of `extras`, and return its interpreter.

    The environment does not contain autotune. Raises InputError, or StackError with pip's error
    message. An unfinished environment is removed.
    """
    if not STACK_NAME.fullmatch(name) or name == DEFAULT_STACK:
        raise InputError(f"the name of a stack has letters, digits, . _ or -; got {name!r}")
    packages = requirements(extras)
    environment = folder() / name
    if cache.NOWHERE in environment.parents:
        raise InputError("there is no home folder for stacks: set HOME or XDG_CACHE_HOME")
    if os.path.exists(environment / COMPLETE_MARKER):  # unlike Path.exists, never an error
        raise InputError(
            f"stack {name} exists at {environment}; remove that folder to create the stack again"
        )
    shutil.rmtree(environment, ignore_errors=True)
    python = str(environment / "bin" / "python")
    announce(f"creating {environment} with {', '.join(packages)}")
    steps = (
        [sys.executable, "-m", "venv", str(environment)],
        [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *packages],
    )
    try:
        for step in steps:
            done = subprocess.run(step, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                lines = [
                    line for line in done.stderr.splitlines() if line.lower().startswith("error")
                ]
                message = (lines or done.stderr.splitlines() or ["no message"])[-1]
                raise StackError(f"stack {name} could not be created: {message}")
        (environment / COMPLETE_MARKER).write_text("\n".join(extras) + "\n", encoding="utf-8")
    except OSError as error:
        raise StackError(f"stack {name} could not be created: {error}") from error
    finally:
        if not os.path.exists(environment / COMPLETE_MARKER):
            shutil.rmtree(environment, ignore_errors=True)
    return python
