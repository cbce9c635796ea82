"""The counters that are read while a pass is timed."""

from __future__ import annotations

import pytest

from autotune.shared.records import Pass, counted
from autotune.worker.disturbance import (
    TICK_S,
    Moment,
    Taken,
    read_stolen_s,
    read_used_cpus,
    read_waited_s,
    time_reference_s,
)


def write_thread(tasks, number, waited_ns, cpu):
    (tasks / str(number)).mkdir(parents=True)
    (tasks / str(number) / "schedstat").write_text(f"77 {waited_ns} 3\n")
    fields = ["S", *["0"] * 35, str(cpu), "0"]  # field 39 is the CPU; the second is the name
    (tasks / str(number) / "stat").write_text(f"{number} (a ) name) {' '.join(fields)}\n")


def test_waiting_is_read_for_each_thread(tmp_path):
    write_thread(tmp_path, 7, 1_000_000_000, cpu=1)
    write_thread(tmp_path, 8, 250_000_000, cpu=3)
    (tmp_path / "9").mkdir()  # has just ended
    assert read_waited_s(tmp_path) == {7: 1.0, 8: 0.25}
    assert read_used_cpus(tmp_path) == {1, 3}


def test_stolen_time_is_read_for_each_cpu_in_ticks(tmp_path):
    stat = tmp_path / "stat"
    zeros = "0 " * 7
    stat.write_text(f"cpu  {zeros}302 0 0\ncpu0 {zeros}300 0 0\ncpu1 {zeros}2 0 0\nintr 5\n")
    assert read_stolen_s(stat) == pytest.approx({0: 300 * TICK_S, 1: 2 * TICK_S})
    assert read_stolen_s(tmp_path / "none") == {}


def taken(waited_s, stolen_s=(), cpus=()):
    return Taken(waited_s=dict(waited_s), stolen_s=dict(stolen_s), cpus=frozenset(cpus))


def test_many_threads_that_wait_a_little_disturb_nothing():
    loss = taken(dict.fromkeys(range(32), 0.004)).since(taken(dict.fromkeys(range(32), 0.0)))
    assert loss.waited_s == pytest.approx(0.128)
    assert loss.held_up_s == pytest.approx(0.004)
    assert not Pass(batch_s=(1.0,), waited_s=loss.waited_s, held_up_s=loss.held_up_s).disturbed
    one = taken({n: 0.2 if n == 5 else 0.0 for n in range(32)}).since(taken({}))
    assert Pass(batch_s=(1.0,), held_up_s=one.held_up_s).disturbed


def test_only_cpus_that_were_used_count_as_stolen():
    before = taken({}, {0: 1.0, 1: 1.0, 2: 1.0}, [1])
    loss = taken({}, {0: 4.0, 1: 1.25, 2: 1.5}, [2]).since(before)
    assert (loss.stolen_s, loss.held_up_s) == (0.75, 0.5)


def test_counters_of_this_process_only_grow():
    one, other = Moment.now(), Moment.now()
    loss = other.taken.since(one.taken)
    assert min(loss.waited_s, loss.stolen_s, loss.held_up_s) >= 0
    assert other.taken.cpus
    assert time_reference_s() > 0


def test_a_pass_that_waited_is_not_counted_where_enough_others_are_left():
    quiet = Pass(batch_s=(1.0,), held_up_s=0.01)
    waited = Pass(batch_s=(2.0,), held_up_s=0.5)
    stolen = Pass(batch_s=(2.0,), held_up_s=0.5)
    assert counted((quiet, waited, quiet)) == (quiet, quiet)
    assert counted((quiet, waited, stolen)) == (quiet, waited, stolen)
    other = Pass(batch_s=(1.0,), instance=1)
    assert counted((quiet, other, quiet, waited)) == (quiet, other, quiet)
    spoilt = Pass(batch_s=(1.0,), instance=1, held_up_s=1.0)
    assert counted((quiet, spoilt)) == (quiet, spoilt)


def test_a_cold_pass_counts_where_its_instance_has_no_other():
    warm = Pass(batch_s=(1.0,))
    cold = Pass(batch_s=(2.0,), cold=True)
    waited = Pass(batch_s=(1.5,), held_up_s=0.5)
    assert counted((cold, warm, warm)) == (warm, warm)
    assert counted((cold,)) == (cold,)
    assert counted((cold, waited)) == (waited,)
    assert counted((cold, warm, waited)) == (warm,)
    other = Pass(batch_s=(2.0,), cold=True, instance=1)
    assert counted((cold, warm, other)) == (warm, other)
