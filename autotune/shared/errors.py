"""Every exception that this project raises on purpose.

AutotuneError            its message is one line: the rule, the value and the next step
├── InputError           the user passed something unusable (exit code 2)
│   ├── DatasetError
│   │   └── DegenerateBaselineError
│   ├── ModelError
│   ├── OutputError
│   ├── ResumeError
│   ├── SpaceError
│   └── StackError
└── SearchError          the search found nothing to recommend (exit code 1)

TrialFailure             raised inside a worker; becomes a `records.Failure`
"""

from __future__ import annotations


class AutotuneError(Exception):
    """Base of the errors that the user sees as one line."""


class InputError(AutotuneError):
    """Something the user passed cannot be used."""


class DatasetError(InputError):
    """The dataset is missing, is empty, or lacks a field that its task needs."""


class DegenerateBaselineError(DatasetError):
    """The model scores no better than chance on the dataset, so nothing can be judged by it."""


class ModelError(InputError):
    """The model is missing, cannot be reached, or has no head for the task."""


class OutputError(InputError):
    """The output folder cannot be written, or already holds something else."""


class ResumeError(InputError):
    """The run to resume had other settings, or cannot be read."""


class SpaceError(InputError):
    """The search space is malformed, or no configuration satisfies its constraints."""


class StackError(InputError):
    """The interpreter lacks what the request needs."""


class SearchError(AutotuneError):
    """The search ran but has no configuration to recommend."""


MAX_DETAIL = 400
"""Most characters of a failure's detail. Libraries print whole tensors and graphs: torch's tracer
wrote 78,000 characters, OpenVINO's 180,000."""


def shorten(text: str) -> str:
    """`text` on one line, at most MAX_DETAIL characters."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_DETAIL else f"{line[: MAX_DETAIL - 1]}…"


def describe(error: BaseException) -> str:
    """The type and message of `error`. Of an error inside TorchScript, its last line: what comes
    before is the traced code."""
    text = str(error)
    if "Traceback of TorchScript" in text:
        text = text.strip().rpartition("\n")[2].removeprefix(f"{type(error).__name__}: ")
    return f"{type(error).__name__}: {text}"


class TrialFailure(Exception):
    """A configuration cannot be measured.

    `kind` is one of `autotune.shared.records.FAILURE_KINDS`. `detail` says why, for a person, on
    one line of at most MAX_DETAIL characters.
    """

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        self.detail = shorten(detail)
        super().__init__(f"{kind}: {self.detail}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` is an allocation that failed. torch raises a RuntimeError for it."""
    return isinstance(error, MemoryError) or "not enough memory" in str(error)
