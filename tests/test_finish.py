"""Running the written script beside the search's own process, both made up."""

from __future__ import annotations

import json

import pytest
from fakes import measurement

from autotune.finish import launch_check
from autotune.folder import RunFolder
from autotune.records import Config, Failure
from autotune.report.text import launch_sentence
from autotune.runner import Outcome
from autotune.search.objective import objective_named

CONFIG = Config.of({"mode": "jit"})
CHECK = {
    "objective": "throughput",
    "measured": {"median": 9.0},
    "ratio": 0.5,
    "consistent": False,
    "same_metrics": True,
}
SCRIPT = f"echo '{json.dumps(CHECK)}'"


class Own:
    """The search's own process: ten examples in so many seconds, time after time."""

    def __init__(self, *pass_s):
        self.pass_s, self.closed = list(pass_s), False

    def run(self, config, rule):
        if not self.pass_s:
            return Outcome(failure=Failure(kind="crash", detail="gone"))
        return Outcome(measurement=measurement(self.pass_s.pop(0)))

    def close(self):
        self.closed = True


def checked(tmp_path, own, objective="throughput", script=SCRIPT):
    folder = RunFolder(tmp_path)
    folder.launch.write_text(script)
    found = launch_check(folder, own, CONFIG, objective_named(objective))
    assert own.closed
    return found


def test_a_host_that_has_slowed_is_told_from_a_script_that_is_slower(tmp_path):
    found = checked(tmp_path, Own(1.25, 0.8))  # 8 and 12.5 examples a second, 10 between them
    assert found["beside"] == pytest.approx(0.9)
    sentence = launch_sentence({"launch_check": found, "metrics": ["f1"]})
    assert "reached 0.50 of the reported speed with the same f1; the search's own" in sentence
    assert sentence.endswith("reached 0.56.")
    found["consistent"] = True
    sentence = launch_sentence({"launch_check": found, "metrics": ["f1"]})
    assert sentence.endswith("reached 0.50 of the reported speed with the same f1.")


def test_of_latencies_the_lower_is_the_better(tmp_path):
    found = checked(tmp_path, Own(90.0, 90.0), objective="latency")  # nine seconds each
    assert found["beside"] == pytest.approx(1.0)
    assert checked(tmp_path, Own(45.0, 45.0), objective="latency")["beside"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("own", "objective"),
    [(Own(), "throughput"), (Own(1.0), "throughput"), (Own(1.0, 1.0), "server-50ms")],
)
def test_without_a_measurement_of_its_own_nothing_is_said_of_it(tmp_path, own, objective):
    found = checked(tmp_path, own, objective)
    assert found == CHECK
    assert "the host has changed" in launch_sentence({"launch_check": found, "metrics": ["f1"]})


def test_of_a_rate_it_says_whether_the_limit_was_kept():
    late = {**CHECK, "objective": "server-50ms"}
    sentence = launch_sentence({"launch_check": late, "metrics": ["f1"]})
    assert "answered the reported rate with a p99 of 100 ms with the same f1" in sentence
    kept = {**late, "ratio": 1.0}
    sentence = launch_sentence({"launch_check": kept, "metrics": ["f1"]})
    assert "kept the limit at the reported rate with the same f1." in sentence


def test_a_script_that_fails_is_told_with_its_last_line(tmp_path):
    found = checked(tmp_path, Own(1.0, 1.0), script="echo first >&2; echo why >&2; exit 3")
    assert found == {"error": "why"}


def test_a_script_that_is_interrupted_may_end_its_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("autotune.finish.LAUNCH_TIMEOUT_S", 1.0)
    script = "trap 'touch ended; exit 143' TERM; cd -- \"${BASH_SOURCE[0]%/*}\"; sleep 30 & wait"
    found = checked(tmp_path, Own(1.0, 1.0), script=f"exec 2>/dev/null >&2\n{script}")
    assert "timed out" in found["error"]
    assert (tmp_path / "ended").exists()
