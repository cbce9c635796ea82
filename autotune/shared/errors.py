"""Every exception this project raises on purpose.

    AutotuneError            one line for a person: the rule, the value, the next step
    ├── InputError           what the user passed cannot be used (exit code 2)
    │   ├── DatasetError     dataset missing, empty, or without the fields of its task
    │   ├── ModelError       model missing, unreachable, or without the head of its task
    │   ├── OutputError      the output folder cannot be used
    │   ├── ResumeError      the run to resume is another one, or is damaged
    │   ├── SpaceError       a search space that is malformed or that nothing satisfies
    │   └── StackError       an interpreter that cannot run what was asked
    └── SearchError          the search ran, and found nothing to recommend (exit code 1)

    TrialFailure             raised inside a worker; becomes a `records.Failure`

The worker imports this module on foreign interpreters: standard library only.
"""

from __future__ import annotations


class AutotuneError(Exception):
    """Base of the errors that reach the user as one line."""


class InputError(AutotuneError):
    """Something the user passed cannot be used."""


class DatasetError(InputError):
    """The dataset is missing, empty, or lacks a field its task needs."""


class ModelError(InputError):
    """The model is missing, unreachable, or has no head for the task."""


class OutputError(InputError):
    """The output folder cannot be written or already holds something else."""


class ResumeError(InputError):
    """The run to resume differs from what was asked, or cannot be read."""


class SpaceError(InputError):
    """The search space is malformed, or no configuration satisfies it."""


class StackError(InputError):
    """The interpreter lacks what the request needs."""


class SearchError(AutotuneError):
    """The search ran but has no configuration to recommend."""


class TrialFailure(Exception):
    """A configuration that cannot be measured, with its kind and its words.

    `kind` is one of `autotune.shared.records.FAILURE_KINDS`.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
