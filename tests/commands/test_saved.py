"""What `--save-engine` keeps is what launch.sh starts from."""

from __future__ import annotations

import importlib.util
import json

import pytest
from conftest import STUB
from events import reported

pytestmark = pytest.mark.model


def searched(autotune, mode, *options):
    done = autotune(
        # Short rows: without padding to 384 tokens, any engine is surely faster.
        *("search", "--model", "demo", "--dataset", STUB / "questions.json", "--accept-degenerate"),
        *("--set", f"mode={mode}", "--set", "precision=fp32", "--set", "padding=length_sorted"),
        *("--trials", "3", "--time-budget", "120s", "--save-engine", "--output", "run", "--json"),
        *options,
    )
    assert done.returncode == 0, done.stderr
    return reported(done)


@pytest.mark.full
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("jit", ("--set", "linear=torch")),  # packed weights cannot be written
        ("openvino", ()),
    ],
)
def test_a_kept_engine_is_started_from_and_answers_the_same(autotune, tmp_path, mode, options):
    if mode != "jit" and importlib.util.find_spec(mode) is None:
        pytest.skip(f"{mode} is not installed")
    report = searched(autotune, mode, *options)
    engine = report["engine"]
    assert report["best"]["config"]["mode"] == mode
    assert engine["kept"], engine
    assert engine["bytes"] > 0
    run = tmp_path / "run"
    request = json.loads((run / "launch.jsonl").read_text().splitlines()[0])
    assert request["args"]["cache"] == "engine/default"
    assert sorted(path.name for path in (run / "engine" / "default").iterdir())
    assert report["launch_check"]["same_metrics"]
    words = (run / "report.md").read_text()
    assert "The prepared engine is kept" in words


def test_an_engine_that_keeps_nothing_says_so(finished):
    reason = "eager with these settings makes nothing that could be kept"
    assert finished.report["engine"] == {"kept": False, "reason": reason}
    assert not (finished.run / "engine").exists()
