"""Running the written script in turn with the search's own process, both made up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest
from fakes import measurement

from autotune.commands.search import finish
from autotune.commands.search import launch_check as launched
from autotune.commands.search.launch_check import launch_check
from autotune.driver.runner import Outcome
from autotune.report.text import launch_sentence
from autotune.search.objective import objective_named
from autotune.shared.records import Config, Failure, to_jsonable

CONFIG = Config.of({"mode": "jit", "instances": 1, "batch_size": 8, "padding": "longest"})
CHECK = {
    "objective": "throughput",
    "measured": {"median": 9.0},
    "ratio": 0.5,
    "consistent": False,
    "same_metrics": True,
}
WORKER = """
import json, os, sys, threading
def converse(folder):
    with open(folder + "/requests") as requests, open(folder + "/replies", "w") as replies:
        for line in requests:
            reply = {{"id": json.loads(line)["id"], "ok": {reply}}}
            replies.write(json.dumps(reply) + "\\n")
            replies.flush()
then = os.environ.get("AUTOTUNE_THEN")
if then:
    folders = [entry.path for entry in os.scandir(then) if entry.is_dir()]
    threads = [threading.Thread(target=converse, args=(one,)) for one in folders]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print('{check}')
"""


class Own:
    """The search's own process: ten examples in so many seconds, in every turn."""

    def __init__(self, pass_s):
        self.pass_s, self.closed, self.turns = pass_s, False, 0

    def run(self, config, rule):
        self.turns += 1
        if self.pass_s is None:
            return Outcome(failure=Failure(kind="crash", detail="gone"))
        return Outcome(measurement=measurement(self.pass_s))

    def close(self):
        self.closed = True


@pytest.fixture
def checked(tmp_path):
    """Run a made-up launch.sh whose workers take `pass_s` a pass, beside an Own."""

    def check(
        own,
        *,
        pass_s=1.0,
        objective="throughput",
        script=None,
        instances=1,
        beside=True,
        time_s=40.0,
        timeout_s=20.0,
    ):
        path, worker = tmp_path / "launch.sh", tmp_path / "worker.py"
        reply = json.dumps(to_jsonable(measurement(pass_s))).replace("true", "True")
        reply = reply.replace("false", "False")
        worker.write_text(WORKER.format(reply=reply, check=json.dumps(CHECK)))
        path.write_text(script or f"exec {sys.executable} {worker}")
        found = launch_check(
            path,
            own,
            Config.of({**CONFIG, "instances": instances}),
            objective_named(objective),
            work=tmp_path / "work",
            beside=beside,
            time_s=time_s,
            timeout_s=timeout_s,
        )
        assert own.closed
        return found

    return check


def sentence(check):
    return launch_sentence({"launch_check": to_jsonable(check), "metrics": ["f1"]})


def test_a_host_that_has_slowed_is_told_from_a_script_that_is_slower(checked):
    own = Own(0.9)
    found = checked(own, pass_s=1.0)
    assert found["ratio"] == 0.5  # of the promise: the host has slowed since
    assert found["beside"].median == pytest.approx(0.9)
    assert found["beside"].coverage >= 0.95
    assert own.turns == 1 + 6  # the fewest rounds that give an interval of 95%
    assert "only 50% of the reported speed" in sentence(found)
    assert "it ran at 90%" in sentence(found)
    found["consistent"], found["ratio"] = True, 0.95
    low, high = found["beside"].low, found["beside"].high
    assert sentence(found).endswith(f"speed ({low:.0%} to {high:.0%}), with the same f1.")


def test_where_there_is_no_time_for_more_one_round_is_held(checked):
    own = Own(0.9)
    assert checked(own, time_s=0.0)["beside"].samples == 1
    assert own.turns == 2


def test_of_latencies_the_lower_is_the_better(checked):
    assert checked(Own(0.5), objective="latency")["beside"].median == pytest.approx(0.5)


def test_the_first_turn_of_each_side_does_not_count(checked):
    own = Own(100.0)

    def run(config, rule):
        own.pass_s, outcome = 1.0, Own.run(own, config, rule)
        return outcome

    own.run = run
    assert checked(own)["beside"].median == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("own", "options"),
    [
        (Own(None), {}),
        (Own(1.0), {"objective": "server-50ms"}),
        (Own(1.0), {"beside": False}),
    ],
)
def test_without_a_measurement_of_its_own_nothing_is_said_of_it(checked, own, options):
    found = checked(own, **options)
    assert found == CHECK
    assert "Do not rely on the reported speed" in sentence(found)


def test_of_a_rate_it_says_whether_the_limit_was_kept():
    late = {**CHECK, "objective": "server-50ms"}
    assert "answered the reported rate with a p99 of 100 ms, with the same f1" in sentence(late)
    kept = {**late, "ratio": 1.0}
    assert "kept the limit at the reported rate, with the same f1." in sentence(kept)


def test_a_script_that_fails_is_told_with_its_last_line(checked):
    found = checked(Own(1.0), script="echo first >&2; echo why >&2; exit 3")
    assert found == {"error": "why"}


def test_a_script_that_does_not_answer_in_time_is_ended(checked, tmp_path, monkeypatch):
    script = "trap 'touch \"${BASH_SOURCE[0]%/*}/ended\"; exit 143' TERM; sleep 60 & wait"
    monkeypatch.setattr(launched, "TIMEOUT_S", 1.0)
    assert "timed out" in checked(Own(1.0), script=script, beside=False)["error"]
    assert (tmp_path / "ended").exists()


def test_workers_that_do_not_answer_in_time_are_ended(checked, tmp_path):
    script = "trap 'touch \"${BASH_SOURCE[0]%/*}/ended\"; exit 143' TERM; sleep 60 & wait"
    assert "no answer in 1 s" in checked(Own(1.0), script=script, timeout_s=1.0)["error"]
    assert (tmp_path / "ended").exists()


def test_a_script_ends_with_the_search_that_runs_it(tmp_path):
    """Also where that is killed: no worker of the script outlives it."""
    script = tmp_path / "launch.sh"
    script.write_text(
        "trap 'touch \"${BASH_SOURCE[0]%/*}/ended\"; exit 143' TERM\n"
        'touch "${BASH_SOURCE[0]%/*}/begun"; sleep 60 & wait\n'
    )
    program = f"""
    from pathlib import Path
    from autotune.commands.search.launch_check import Launched
    with Launched(Path({str(script)!r}), instances=0, folder=Path({str(tmp_path)!r}), timeout_s=60):
        import time; time.sleep(60)
    """
    search = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    wait_for(tmp_path / "begun")
    os.kill(search.pid, signal.SIGKILL)
    search.wait()
    wait_for(tmp_path / "ended")


def wait_for(path, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("ratios", "kept", "first"),
    [
        ([0.08, 0.97], 0.97, 0.08),  # the host was busy for some seconds
        ([0.08, 0.07], 0.07, 0.08),
        ([0.9], 0.9, None),
    ],
)
def test_a_script_that_falls_short_gets_a_second_try(monkeypatch, ratios, kept, first):
    said, names, left = [], [], list(ratios)

    def once(run, result, runner, name):
        names.append(name)
        return {**CHECK, "ratio": left.pop(0)}

    monkeypatch.setattr(finish, "_launch_once", once)
    found = finish._check_launch(SimpleNamespace(announce=said.append), None, None)
    assert (found["ratio"], found.get("first_ratio")) == (kept, first)
    assert len(names) == len(set(names)) == len(ratios)  # each try has its own scratch folder
    words = "launch.sh reached 8% of the promise; running it once more"
    assert (words in said) == (len(ratios) == 2)


def test_a_script_that_failed_gets_a_second_try(monkeypatch):
    checks, said = [{"error": "gone"}, {**CHECK, "ratio": 0.9}], []
    monkeypatch.setattr(finish, "_launch_once", lambda *_: checks.pop(0))
    found = finish._check_launch(SimpleNamespace(announce=said.append), None, None)
    assert found["ratio"] == 0.9
    assert "first_ratio" not in found
    assert "launch.sh failed; running it once more" in said


def test_instances_answer_together(checked):
    found = checked(Own(1.0), instances=2)
    assert found == {"error": "protocol: an instance does not say when it was released"}
