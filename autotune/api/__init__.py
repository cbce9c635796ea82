"""The Python interface. `import autotune` offers what is here; the command line does the same.

    import autotune

    run = autotune.tune("demo", time_budget_s=300, output="reports/demo")
    print(run.config, run.speedup)
    assert autotune.load_run("reports/demo").verify().holds

Errors are those of `autotune.shared.errors`: InputError for something unusable, SearchError for a
search that found nothing. Each is one line.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from autotune.shared.errors import AutotuneError, InputError, ResumeError, SearchError
from autotune.shared.paths import written
from autotune.shared.records import Scalar
from autotune.shared.stats import Interval
from autotune.store.folder import RunFolder, folder_of

if TYPE_CHECKING:
    from autotune.commands.promise.verify import Verified
    from autotune.search.progress import Progress

__all__ = [
    "AutotuneError",
    "InputError",
    "SearchError",
    "TunedRun",
    "load_run",
    "tune",
    "verify",
]

Choices = Scalar | Sequence[Scalar]
"""A value that fixes a knob, or the values to which it is narrowed."""


@dataclass(frozen=True)
class TunedRun:
    """A finished search, in the folder `path`."""

    path: Path

    @functools.cached_property
    def report(self) -> dict[str, Any]:
        """report.json; docs/report.md explains its keys. Raises ResumeError if it is damaged."""
        file = RunFolder(self.path).report_json
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ResumeError(f"{file} cannot be read: {error}") from error
        return found

    @functools.cached_property
    def best(self) -> dict[str, Any]:
        """best.yaml: the configuration, its promise, and what is needed to run it.

        Raises ResumeError if it is damaged.
        """
        file = RunFolder(self.path).best
        try:
            found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
            return {**found, "config": dict(found["config"])}
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise ResumeError(f"{file} cannot be read: {error}") from error

    @property
    def config(self) -> dict[str, Scalar]:
        """The best configuration: knob -> value."""
        return dict(self.best["config"])

    @property
    def significant(self) -> bool:
        """Whether the best configuration is surely better than the baseline."""
        return bool(self.report["significant"])

    @property
    def speedup(self) -> Interval:
        """How many times as good as the baseline the best configuration is, with its interval."""
        found = self.report["best"]["speedup"]
        return Interval(**{name: found[name] for name in Interval.__dataclass_fields__})

    def verify(
        self,
        *,
        min_speedup: float | None = None,
        rounds: int | None = None,
        model: str | os.PathLike[str] | None = None,
    ) -> Verified:
        """`verify` of this run."""
        return verify(self.path, min_speedup=min_speedup, rounds=rounds, model=model)


def tune(
    model: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    knobs: Mapping[str, Choices] | None = None,
    drop: str | Sequence[str] = (),
    announce: Callable[[str], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> TunedRun:
    """Search for the best configuration of `model` on this host.

    Starts worker processes, and takes `time_budget_s` seconds (600 without `trials`).

    - `model`: a folder, a hub id, or "demo".
    - `output`: the folder of the run. None: a new folder below `reports`.
    - `resume`: continue the run in `output`, with its options where none are passed here.
    - `knobs`: knob -> value that fixes it, or the values to which it is narrowed.
    - `drop`: a knob that is not searched, or several.
    - `announce`: called with each line that the command would print before its table.
    - `progress`: called after each trial.
    - `options`: the other options of `autotune search`, by the names and with the units of
      `autotune.commands.search.settings.Settings`: `task`, `dataset`, `objective`, `trials`,
      `time_budget_s`, `max_accuracy_drop`, ... and `max_latency_ms`. None stands for an option
      that is not passed.

    Raises InputError for anything unusable, and SearchError if the baseline cannot be measured.
    KeyboardInterrupt ends the search early, with the results so far.
    """
    from autotune.commands.search.options import settings_from
    from autotune.commands.search.tune import Tuning

    given = {
        "model": model,
        **({"overrides": _overrides(knobs)} if knobs else {}),
        **({"dropped": drop} if drop else {}),
        **options,
    }
    folder = None if output is None else _path(output, "output", InputError)
    settings, decided = settings_from(given, resumed=folder if resume else None)
    say = announce or (lambda line: None)
    for line in decided:
        say(line)
    finished = Tuning(
        settings,
        output=folder,
        resume=resume,
        command_line=[],
        listener=_Listener(progress),
        announce=say,
    ).run()
    return TunedRun(finished.folder.path)


def load_run(path: str | os.PathLike[str]) -> TunedRun:
    """The finished run in the folder `path`, or beside the best.yaml `path`.

    Raises InputError if there is none, or if it is not finished.
    """
    run = TunedRun(folder_of(_path(path, "the run", ResumeError)).path)
    if not run.best:
        raise ResumeError(f"{path} holds no finished run")
    return run


def verify(
    path: str | os.PathLike[str],
    *,
    min_speedup: float | None = None,
    rounds: int | None = None,
    model: str | os.PathLike[str] | None = None,
) -> Verified:
    """Measure the best configuration of the run in `path` against its baseline again, in turn.

    `min_speedup`: the least speedup to accept; None: 80% of the promised one. `rounds`: how often
    each is measured; None: as often as `autotune verify` does. `model`: where the model is now, if
    not where the search found it. The promise holds if `holds` is true; `causes` say why not.
    Raises InputError if there is no finished run, or another model.
    """
    from autotune.commands.promise import verify as verifying

    return verifying.verify(
        _path(path, "the run", ResumeError),
        min_speedup=min_speedup,
        rounds=verifying.ROUNDS if rounds is None else rounds,
        model=None if model is None else os.fspath(model),
    )


def _path(path: str | os.PathLike[str], what: str, error: type[InputError]) -> Path:
    """A path as a person writes it. Raises `error`, whose message begins with `what`."""
    try:
        text = os.fspath(path)
    except TypeError:
        raise error(f"{what} must be a path, got {ascii(path)[:60]}") from None
    return written(text, what, error)


def _overrides(knobs: Mapping[str, Choices]) -> tuple[str, ...]:
    """The choices as the command line writes them."""

    def words(chosen: Choices) -> str:
        values = [chosen] if isinstance(chosen, str | int | float) else chosen
        return ",".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)

    return tuple(f"{name}={words(chosen)}" for name, chosen in knobs.items())


class _Listener:
    """Passes finished trials on."""

    def __init__(self, progress: Callable[[Progress], None] | None) -> None:
        self._progress = progress

    def started(self, config: object, origin: str, number: int) -> None:
        """Nobody asked for it."""

    def expects(self, outlook: object) -> None:
        """Nobody asked for it."""

    def finished(self, progress: Progress) -> None:
        if self._progress is not None:
            self._progress(progress)
