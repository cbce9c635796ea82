"""The switches of Hugging Face's example scripts that stand for an engine or a precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autotune.shared.records import Scalar

Series = tuple[int, int]
"""The first two numbers of a version of transformers: (4, 52)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptFlag:
    """One switch of the scripts, and the versions of transformers that honour it.

    `knobs` are settings that the flag asks for besides the engine or precision itself.
    """

    name: str  # without the dashes
    knobs: tuple[tuple[str, Scalar], ...] = ()
    first: Series | None = None  # version; None: from the beginning
    before: Series | None = None  # version; None: to this day
    otherwise: str = ""
    """What other versions do, for people. `{version}` stands for the version of transformers."""

    @property
    def option(self) -> str:
        """The flag as it is written: `--use_ipex`."""
        return f"--{self.name}"

    def is_honoured_by(self, series: Series) -> bool:
        """Whether this version of transformers does what the flag says."""
        return (self.first is None or self.first <= series) and (
            self.before is None or series < self.before
        )

    def agrees_with(self, values: Mapping[str, Scalar]) -> bool:
        """Whether a configuration with these values has the settings that the flag asks for."""
        return all(values.get(name) == value for name, value in self.knobs)
