"""How many rows the winner is judged on, by the time there is for it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fakes import measurement, trial

from autotune.commands.search.more_rows import MoreRowsJudge
from autotune.search.limits import Limits

KNOWN = 10


def judge(budget_s, further):
    run = SimpleNamespace(
        workload=SimpleNamespace(expected=SimpleNamespace(examples=KNOWN)),
        settings=SimpleNamespace(limits=Limits(trials=None, time_budget_s=budget_s)),
    )
    return MoreRowsJudge(run, [None] * further, fork_servers=None)


BASELINE = trial(measurement=measurement(10.0))
"""1 s a row, of which half is padding. It prepares in 1 s and warms up in 1 s."""
WINNER = trial(measurement=measurement(2.0))
"""0.2 s a row; it prepares and warms up as long."""
OPENING_S = 5 + 2 * (1 + 1 + 1)
"""Encoding, then import, preparation and warm-up of both."""
ROW_S = 1.3 * (0.5 * 1.0 + 0.2)


@pytest.mark.parametrize(
    ("budget_s", "further", "rows"),
    [
        (1000.0, 20, 30),  # 100 s are enough for all
        (300.0, 990, int((30 - OPENING_S) / ROW_S)),  # a tenth of the time
        (None, 990, int((60 - OPENING_S) / ROW_S)),
        (150.0, 990, 0),  # 4 rows: fewer than are known already
        (60.0, 990, 0),  # both would not even be opened in time
        (1000.0, 0, 0),  # there are no others
    ],
)
def test_the_winner_is_judged_on_as_many_rows_as_a_tenth_of_the_time_allows(
    budget_s, further, rows
):
    found = judge(budget_s, further).expected_s(BASELINE, WINNER)
    assert found == pytest.approx(OPENING_S + rows * ROW_S if rows else 0.0)
