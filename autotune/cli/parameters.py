"""Types of the command line's options: durations, sizes and shares."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click

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


class Duration(click.ParamType[float]):
    """`90s`, `10m`, `1h30m` or a number of seconds, as float seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        text = str(value).strip()
        match = re.fullmatch(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d+)?)s?)?", text)
        if not text or match is None:
            self.fail(f"a duration is written 90s, 10m or 1h30m; got {value!r}", param, ctx)
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        total = hours * 3600 + minutes * 60 + seconds
        if total <= 0:
            self.fail(f"a duration must be above zero, got {value!r}", param, ctx)
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
