"""How many rows the winner is judged on, by the time there is for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fakes import measurement, trial

from autotune.commands.search.more_rows import MAX_BYTES, MoreRowsJudge
from autotune.driver.runner import Outcome
from autotune.search.limits import Limits
from autotune.shared.axes import BATCH, WIDTH
from autotune.shared.errors import ModelError
from autotune.shared.records import Failure
from autotune.store.wire import WireError

KNOWN = 10


def judge(budget_s, further, *, axes=(BATCH, WIDTH), workload=None, announce=None):
    run = SimpleNamespace(
        workload=SimpleNamespace(
            expected=SimpleNamespace(examples=KNOWN), task=SimpleNamespace(input_axes=axes)
        ),
        settings=SimpleNamespace(limits=Limits(trials=None, time_budget_s=budget_s)),
        folder=SimpleNamespace(workload=workload),
        announce=announce,
    )
    return MoreRowsJudge(run, [None] * further, fork_servers=None)


BASELINE = trial(measurement=measurement(10.0))
"""1 s a row, of which half is padding. It prepares in 1 s and warms up in 1 s."""
WINNER = trial(measurement=measurement(2.0))
"""0.2 s a row; it prepares and warms up as long."""
OPENING_S = 5 + 2 * (1 + 1 + 1)
"""Encoding, then import, preparation and warm-up of both."""
REFERENCE_S, WINNER_S = 1.1 * 0.5 * 1.0, 1.1 * 0.2
"""Seconds a row, with a margin. The reference runs the further rows only."""


def rows_in(seconds):
    """The rows that fit, those of the search included."""
    return int((seconds - OPENING_S + KNOWN * REFERENCE_S) / (REFERENCE_S + WINNER_S))


def seconds_for(rows):
    return OPENING_S + (rows - KNOWN) * REFERENCE_S + rows * WINNER_S


@pytest.mark.parametrize(
    ("budget_s", "further", "rows"),
    [
        (1000.0, 20, 30),  # 100 s are enough for all
        (300.0, 990, rows_in(30)),  # a tenth of the time
        (None, 990, rows_in(60)),
        (110.0, 990, 0),  # 7 rows: fewer than are known already
        (60.0, 990, 0),  # both would not even be opened in time
        (1000.0, 0, 0),  # there are no others
    ],
)
def test_the_winner_is_judged_on_as_many_rows_as_a_tenth_of_the_time_allows(
    budget_s, further, rows
):
    found = judge(budget_s, further).expected_s(BASELINE, WINNER)
    assert found == pytest.approx(seconds_for(rows) if rows else 0.0)


def test_inputs_without_a_width_are_judged_on_as_many_rows_as_memory_allows(tmp_path):
    size = KNOWN * MAX_BYTES // 25
    with (tmp_path / "features.npz").open("wb") as file:
        file.truncate(size)  # takes no space on the disk
    found = judge(1000.0, 90, axes=(BATCH,), workload=tmp_path).expected_s(BASELINE, WINNER)
    assert found == pytest.approx(seconds_for(25))


def refused(count):
    raise ModelError("row 3 is too long")


def damaged(count):
    raise WireError("features.npz cannot be read")


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (refused, "row 3 is too long"),
        (damaged, "features.npz cannot be read"),
        (
            lambda count: Outcome(failure=Failure(kind="timeout", detail="took 9 s")),
            "eager float32 failed, timeout: took 9 s",
        ),
    ],
)
def test_a_winner_keeps_its_accuracy_if_more_rows_cannot_be_run(prepare, words, monkeypatch):
    lines = []
    judging = judge(1000.0, 20, announce=lines.append)
    monkeypatch.setattr(judging, "_prepare", prepare)
    for _ in range(2):
        outcome, accuracy, failure = judging.judge(BASELINE, WINNER)
        assert (outcome.measurement, accuracy, failure) == (None, WINNER.accuracy, None)
        assert judging.expected_s(BASELINE, WINNER) == 0
    told = [line for line in lines if "not judged" in line]
    assert told == [f"the winner is not judged on more rows: {words}"]
