"""Stacks: interpreters with their own torch, named on the command line or created here."""

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
from autotune.shared.errors import InputError, StackError
from autotune.shared.instructions import has_vnni
from autotune.shared.records import DEFAULT_STACK, StackFacts
from autotune.space import Surroundings
from autotune.space.knobs import KNOBS
from autotune.store import cache

DISTRIBUTION = "autotune-cpu"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}")
EXTRAS = ("ipex", "torch", "onnxruntime", "openvino", "zentorch", "openmp")
COMPLETE = ".complete"  # written last: an environment without it was never finished


def folder() -> Path:
    """Where created stacks are."""
    return cache.folder() / "stacks"


def created() -> dict[str, str]:
    """Name -> interpreter of the stacks that `create` finished."""
    return {
        path.parent.name: str(path.parent / "bin" / "python")
        for path in sorted(folder().glob(f"*/{COMPLETE}"))
    }


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """`--stack NAME=PYTHON`, or the NAME of a created one, as name -> interpreter.

    The stack that runs autotune is always there, under DEFAULT_STACK. Raises InputError.
    """
    stacks = {DEFAULT_STACK: sys.executable}
    known = created()
    for argument in arguments:
        name, equals, python = argument.partition("=")
        if not NAME.fullmatch(name):
            raise InputError(
                f"--stack takes NAME=PYTHON, a name of letters, digits, . _ or -; got {argument!r}"
            )
        if name in stacks:
            raise InputError(f"--stack {name}: that name is taken; choose another")
        if not equals:
            if name not in known:
                raise InputError(
                    f"--stack {name}: no such stack; created ones: {', '.join(known) or 'none'}; "
                    "pass NAME=PYTHON, or make one with autotune stack create"
                )
            python = known[name]
        path = Path(python).expanduser()
        if path.is_dir() and (path / "bin" / "python").is_file():
            path = path / "bin" / "python"
        if not path.is_file() or not os.access(path, os.X_OK):
            raise InputError(f"--stack {argument}: {path} is not a Python interpreter")
        stacks[name] = os.path.abspath(path)  # not resolved: a venv's python is a link
    return stacks


class Examination:
    """What some interpreters can run, as remembered if nothing changed since (not `afresh`).

    Those not remembered import all they have, which takes seconds: they begin when this is made,
    and `found` waits for them. A context manager: leaving it ends what nobody has waited for.
    """

    def __init__(
        self, stacks: Mapping[str, str], host: Host, workdir: Path, *, afresh: bool = False
    ) -> None:
        """Raises StackError where one cannot be started."""
        self._facts: dict[str, StackFacts] = {}
        self._asked: dict[str, tuple[WorkerProcess, str | None]] = {}
        self._names = list(stacks)
        try:
            for name, python in stacks.items():
                key = probes.key(python, host)
                known = None if afresh or key is None else probes.recall(key)
                if known is not None:
                    self._facts[name] = known
                    continue
                with _of(name):
                    worker = start_worker(host, python, workdir / f"probe-{name}")
                    self._asked[name] = worker, key
                    ask_for_probe(worker, host)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def found(self) -> dict[str, StackFacts]:
        """Raises StackError, also where a named one has an IPEX that does not match its torch:
        nobody wants that silently left out."""
        for name in list(self._asked):
            worker, key = self._asked[name]
            with _of(name):
                self._facts[name] = probed(worker)
            if key is not None:
                probes.remember(key, self._facts[name])
            self._asked.pop(name)[0].close()
        for name, facts in self._facts.items():
            mismatched = facts.ipex is not None and "intel-extension-for-pytorch" in facts.versions
            if mismatched and name != DEFAULT_STACK:
                raise StackError(f"--stack {name}: {facts.ipex}")
        return {name: self._facts[name] for name in self._names}

    def close(self) -> None:
        while self._asked:
            self._asked.popitem()[1][0].close()


@contextlib.contextmanager
def _of(name: str) -> Iterator[None]:
    """Errors of a named stack say so."""
    try:
        yield
    except StackError as error:
        if name == DEFAULT_STACK:
            raise
        raise StackError(f"--stack {name}: {error}") from error


def examine(
    stacks: Mapping[str, str], host: Host, workdir: Path, *, afresh: bool = False
) -> dict[str, StackFacts]:
    """What each interpreter can run: an `Examination` that is waited for at once."""
    with Examination(stacks, host, workdir, afresh=afresh) as examination:
        return examination.found()


def fingerprints() -> dict[str, dict[str, Any]]:
    """Of every created stack: interpreter and versions, or the `error` that stops it."""
    host = detect()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="autotune-") as workdir:
        for name, python in created().items():
            entry: dict[str, Any] = {"python": python, "versions": {}}
            try:
                facts = examine({name: python}, host, Path(workdir))[name]
                entry["versions"] = {"python": facts.python_version, **facts.versions}
            except StackError as error:
                entry["error"] = str(error)
            found[name] = entry
    return found


def without(facts: StackFacts, precision: str, reason: str) -> StackFacts:
    """The stack where `precision` cannot run, for `reason`, in any mode that could."""
    modes = {
        mode: {p: reason if p == precision and why is None else why for p, why in offered.items()}
        for mode, offered in facts.modes.items()
    }
    return replace(facts, modes=modes)


def missing_settings(
    host: Host, found: Mapping[str, StackFacts]
) -> dict[str, dict[bool | int | str, str]]:
    """Process settings that cannot be had here: knob -> value -> why, and the remedy."""
    missing: dict[str, dict[bool | int | str, str]] = {
        "allocator": {
            name: REMEDIES[name] for name in ("jemalloc", "tcmalloc") if name not in host.libraries
        },
        "openmp": {} if "gnu" in host.libraries else {"gnu": REMEDIES["gnu"]},
    }
    if all(facts.libiomp5 is None for facts in found.values()):
        missing["openmp"]["intel"] = REMEDIES["intel"]
    if host.huge_pages_refused is not None:
        missing["huge_pages"] = {True: host.huge_pages_refused}
    return missing


def missing_rest(found: Mapping[str, StackFacts]) -> dict[bool | int | str, str]:
    """The values of `int8_rest` that no mode with int8 runs on any stack here, and why."""
    knob, missing = KNOBS["int8_rest"], dict[bool | int | str, str]()
    with_int8 = [
        offered
        for facts in found.values()
        for mode in knob.needs["mode"]
        if (offered := facts.modes.get(str(mode)))
        and any(offered.get(str(int8), "") is None for int8 in knob.needs["precision"])
    ]
    for precision in knob.allowed or ():
        reasons = [offered.get(str(precision), "unknown to this stack") for offered in with_int8]
        if reasons and None not in reasons:
            missing[precision] = str(reasons[-1])
    return missing


def surroundings(
    host: Host, found: Mapping[str, StackFacts], *, attentions: tuple[str, ...], objective: str
) -> Surroundings:
    """What a search space depends on: this host, what its stacks can run, and the model."""
    return Surroundings(
        cores=host.cores,
        nodes=host.nodes,
        vnni=has_vnni(host.instruction_sets),
        attentions=attentions,
        modes={name: facts.modes for name, facts in found.items()},
        objective=objective,
        missing={**missing_settings(host, found), "int8_rest": missing_rest(found)},
    )


def requirements(extras: Sequence[str]) -> list[str]:
    """What pip installs for `extras`, from this distribution's own metadata.

    Raises InputError for an unknown extra.
    """
    unknown = [extra for extra in extras if extra not in EXTRAS]
    if unknown or not extras:
        raise InputError(
            f"--extra must be one of {', '.join(EXTRAS)}; got {unknown[0] if unknown else 'none'}"
        )
    found = []
    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            continue  # needed by autotune itself, whatever the extra
        if any(marker.evaluate({"extra": extra}) for extra in extras):
            requirement.marker = None
            found.append(str(requirement))
    return [*dict.fromkeys(found)]


def create(name: str, extras: Sequence[str], announce: Callable[[str], None]) -> str:
    """A virtual environment with the packages of `extras`, and nothing of ours; its python.

    Raises InputError, or StackError with pip's words; what was half made is removed.
    """
    if not NAME.fullmatch(name) or name == DEFAULT_STACK:
        raise InputError(f"a stack's name has letters, digits, . _ or -; got {name!r}")
    wanted = requirements(extras)
    place = folder() / name
    if (place / COMPLETE).exists():
        raise InputError(f"stack {name} exists at {place}; remove that folder to make it anew")
    shutil.rmtree(place, ignore_errors=True)
    python = str(place / "bin" / "python")
    announce(f"creating {place} with {', '.join(wanted)}")
    steps = (
        [sys.executable, "-m", "venv", str(place)],
        [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *wanted],
    )
    try:
        for step in steps:
            done = subprocess.run(step, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode:
                lines = [x for x in done.stderr.splitlines() if x.lower().startswith("error")]
                words = (lines or done.stderr.splitlines() or ["no message"])[-1]
                raise StackError(f"stack {name} could not be made: {words}")
        (place / COMPLETE).write_text("\n".join(extras) + "\n", encoding="utf-8")
    except OSError as error:
        raise StackError(f"stack {name} could not be made: {error}") from error
    finally:
        if not (place / COMPLETE).exists():
            shutil.rmtree(place, ignore_errors=True)
    return python
