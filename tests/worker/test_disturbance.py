"""The counters that are read while a pass is timed."""

from __future__ import annotations

import pytest

from autotune.shared.records import Pass, counted
from autotune.worker.disturbance import (
    TICK_S,
    Moment,
    read_stolen_s,
    read_waited_s,
    time_reference_s,
)


def test_waiting_is_added_over_threads(tmp_path):
    for number, waited in enumerate((1_000_000_000, 250_000_000)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "schedstat").write_text(f"77 {waited} 3\n")
    (tmp_path / "gone").mkdir()
    assert read_waited_s(tmp_path) == 1.25


def test_stolen_time_is_in_ticks(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  1 2 3 4 5 6 7 300 0 0\ncpu0 0 0 0 0 0 0 0 150 0 0\n")
    assert read_stolen_s(stat) == pytest.approx(300 * TICK_S)
    assert read_stolen_s(tmp_path / "none") == 0.0


def test_counters_of_this_process_only_grow():
    one, other = Moment.now(), Moment.now()
    assert other.waited_s >= one.waited_s >= 0
    assert other.stolen_s >= one.stolen_s >= 0
    assert time_reference_s() > 0


def test_a_pass_that_waited_is_not_counted_where_enough_others_are_left():
    quiet = Pass(batch_s=(1.0,), waited_s=0.01)
    waited = Pass(batch_s=(2.0,), waited_s=0.5)
    stolen = Pass(batch_s=(2.0,), stolen_s=0.5)
    assert counted((quiet, waited, quiet)) == (quiet, quiet)
    assert counted((quiet, waited, stolen)) == (quiet, waited, stolen)
    other = Pass(batch_s=(1.0,), instance=1)
    assert counted((quiet, other, quiet, waited)) == (quiet, other, quiet)
    spoilt = Pass(batch_s=(1.0,), instance=1, waited_s=1.0)
    assert counted((quiet, spoilt)) == (quiet, spoilt)


def test_a_cold_pass_counts_where_its_instance_has_no_other():
    warm = Pass(batch_s=(1.0,))
    cold = Pass(batch_s=(2.0,), cold=True)
    waited = Pass(batch_s=(1.5,), waited_s=0.5)
    assert counted((cold, warm, warm)) == (warm, warm)
    assert counted((cold,)) == (cold,)
    assert counted((cold, waited)) == (waited,)
    assert counted((cold, warm, waited)) == (warm,)
    other = Pass(batch_s=(2.0,), cold=True, instance=1)
    assert counted((cold, warm, other)) == (warm, other)
