"""Types of the command line's options: durations, sizes and shares."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from autotune.shared.errors import InputError
from autotune.shared.paths import written

SEED = click.IntRange(min=0, max=2**31 - 1)
"""The numbers that every library here takes as a seed, also with the number of trials added."""


class Finite(click.FloatRange):
    """A number in a range. Neither nan nor infinity, which every range holds."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if number is not None and not math.isfinite(number):
            self.fail(f"expected a number, got {value!r}", param, ctx)
        return number


class FilePath(click.ParamType[Path]):
    """A path; `~` and `~user` stand for home folders."""

    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        if isinstance(value, Path):
            return value
        try:
            return written(str(value), "the path")
        except InputError as error:
            self.fail(str(error), param, ctx)


DURATION_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
"""First letter of a unit -> its seconds, the longest first."""
DURATION_PART = re.compile(
    r"(\d+(?:\.\d+)?)\s*(h(?:ours?|rs?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)(?![a-z])\s*"
)
MAX_DURATION_S = 366 * 86400.0


class Duration(click.ParamType[float]):
    """`90s`, `10m`, `5min`, `1h30m` as float seconds. A number needs its unit."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip().lower()
        parts, place = [], 0
        while match := DURATION_PART.match(text, place):
            parts.append((match[2][0], float(match[1])))
            place = match.end()
        units = [unit for unit, _ in parts]
        in_order = units == [unit for unit in DURATION_UNITS if unit in units]
        if not parts or place != len(text) or not in_order:
            self.fail(
                f"a duration is written 90s, 10m or 1h30m, with units; got {value!r}",
                param,
                ctx,
            )
        total = sum(number * DURATION_UNITS[unit] for unit, number in parts)
        if not 0 < total <= MAX_DURATION_S:
            self.fail(f"a duration is above zero and at most a year, got {value!r}", param, ctx)
        return total


class Size(click.ParamType[int]):
    """`512m`, `4g`, `4GiB` as bytes; 1 GiB is 1024 MiB."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([mg])(?:i?b)?", str(value).strip().lower())
        if match is None or float(match[1]) <= 0:
            self.fail(f"a size is written 512m or 4g, got {value!r}", param, ctx)
        return int(float(match[1]) * 2 ** {"m": 20, "g": 30}[match[2]])


class Share(click.ParamType[float]):
    """`1%` or `0.01` as a float from 0 to 1."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            self.fail(f"expected a share such as 1% or 0.01, got {value!r}", param, ctx)
        return share


class TaskName(click.ParamType[str]):
    """A task's name. `tasks.task_named` checks it; the shell completes it."""

    name = "task"

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        from autotune.tasks import ALIASES, task_names

        names = [*task_names(), *ALIASES]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class SamplerName(click.ParamType[str]):
    """A sampler's name. `samplers.check_sampler` checks it; the shell completes it."""

    name = "sampler"

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        from autotune.search.samplers import SAMPLERS

        return [CompletionItem(name) for name in SAMPLERS if name.startswith(incomplete)]


class SpaceName(click.ParamType[str]):
    """A search space's name or file. `settings.find_space` checks it; the shell completes it."""

    name = "space"

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        from autotune.commands.search.settings import known_spaces

        files = [CompletionItem(incomplete, type="file")]
        names = [name for name in known_spaces() if name.startswith(incomplete)]
        return [*map(CompletionItem, names), *files]
