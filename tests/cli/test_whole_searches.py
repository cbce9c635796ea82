"""Whole searches on the stub worker: what is refused, what is said, and what is left."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from types import SimpleNamespace

import optuna
import pytest
import yaml
from commands import command, command_line

ODD = "w\u2028x\u2029y\u0085z"
"""Characters of a text that end a line for some readers. The stub sees four letters."""
TEXTS = (("to be", 0), ("a cat", 0), ("the fox ran", 1), ("an ant", 1))
"""The stub answers by the lengths of all words together: 0 if they are even, else 1."""
SEARCH = ("search", "--model", "demo", "--task", "text-classification", "--set", "mode=jit")
NARROW = ("--set", "precision=fp32", "--set", "threads=1", "--set", "instances=1", "--trials", "2")


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def one_line(done):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("autotune: ")]
    return line


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A search that runs 16 of 128 rows of odd texts, into a folder whose name is not ASCII.

    Its standard output takes ASCII only.
    """
    folder = tmp_path_factory.mktemp("found")
    rows = [
        {"idx": n, "sentence": f"{text} n{n:03}", "question": ODD, "label": label}
        for n in range(128)
        for text, label in [TEXTS[(n + n // 8 * 2) % 4]]
    ]
    dataset = write_rows(folder / "rows.jsonl", rows)
    done = command_line(folder, stub=True)(
        *(*SEARCH, *NARROW, "--dataset", dataset, "--max-samples", "16"),
        *("--output", "caf\u00e9 \u4e2d", "--time-budget", "200s"),
        PYTHONIOENCODING="ascii:strict",
    )
    run = folder / "caf\u00e9 \u4e2d"
    return SimpleNamespace(done=done, run=run, folder=folder)


def test_the_columns_that_are_read_are_said_at_the_start(found):
    assert found.done.stderr.splitlines()[0] == (
        "reading 128 rows: text from question, text_pair from sentence, label from label; "
        "not used: idx"
    )


def test_a_path_that_standard_output_cannot_hold_is_no_error_after_success(found):
    assert found.done.returncode == 0, found.done.stderr
    pasted = found.done.stdout.rpartition("Run it: ")[2]
    assert pasted.isascii()
    launched = subprocess.run(["bash", "-c", pasted], cwd=found.folder, capture_output=True)
    assert launched.returncode == 0, launched.stderr


def test_odd_characters_in_a_text_are_read_back_from_the_runs_own_copy(found):
    copy = (found.run / "workload" / "validation.json").read_bytes().decode()
    lines = copy.removesuffix("\n").split("\n")
    assert [json.loads(line)["sentence1"] for line in lines] == [ODD] * 16
    report = json.loads((found.run / "report.json").read_text())
    assert report["launch_check"]["same_metrics"], report["launch_check"]
    verified = command_line(found.folder, stub=True)(
        "verify", found.run, "--min-speedup", "0.01", "--rounds", "3", "--json"
    )
    again = json.loads(verified.stdout)
    assert again["metrics"]["accuracy"] == report["best"]["metrics"]["accuracy"]
    assert not [cause for cause in again["causes"] if "baseline reads" not in cause]


def test_the_winner_is_judged_on_all_rows_and_every_file_says_how_sure_that_is(found):
    """64 rows are set aside to calibrate. All others are judged, 16 of them again."""
    report = json.loads((found.run / "report.json").read_text())
    judged = report["accuracy"]
    assert report["workload"]["examples"] == 16
    assert "judging the winner on 64 rows" in found.done.stderr
    assert (judged["rows"], judged["loss"], judged["certainty"]) == (64, 0.0, "not proven")
    # Without any loss the interval ends at about 4 / 64; it must shrink to 1%.
    assert 3 / 64 <= judged["high"] <= 5 / 64
    assert judged["rows_to_prove"] == pytest.approx(64 * (judged["high"] / 0.01) ** 2, abs=1)
    best = yaml.safe_load((found.run / "best.yaml").read_text())
    assert best["promise"]["accuracy"] == judged
    sentence = f"not proven on 64 rows (about {judged['rows_to_prove']} would prove it)"
    for name in ("report.md", "report.html"):
        assert sentence in (found.run / name).read_text()
    assert sentence in " ".join(found.done.stdout.split())


def wrong_rows(folder):
    """Rows whose labels are never what the stub answers."""
    rows = [{"sentence": text, "label": 1 - label} for text, label in TEXTS * 8]
    return write_rows(folder / "rows.jsonl", rows)


def test_a_baseline_that_is_always_wrong_is_refused_in_one_line(stubbed, tmp_path):
    rows = wrong_rows(tmp_path)
    line = one_line(stubbed(*SEARCH, *NARROW, "--dataset", rows, "--output", "run"))
    assert "the baseline's accuracy is 0.00" in line
    assert "check that the labels (or tags) are the model's" in line
    assert not (tmp_path / "run").exists()


AS_NOBODY = ("unshare", "--user", "--map-user=54321")
"""Starts a command with a user id that no file knows, as containers do."""


@pytest.fixture
def as_nobody():
    try:
        found = subprocess.run([*AS_NOBODY, "id", "-u"], capture_output=True, text=True).stdout
    except OSError:
        found = ""
    if found.strip() != "54321":
        pytest.skip("may not have another user id")
    return AS_NOBODY


@pytest.mark.parametrize(
    "home",
    [None, *(pytest.param(h, marks=pytest.mark.full) for h in ("/", "/nowhere", "read-only"))],
)
def test_a_user_without_an_entry_can_measure(as_nobody, tmp_path, home):
    """The search gets as far as the baseline, and then refuses it as for anybody else."""
    dropped = ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME")
    caller = {name: value for name, value in os.environ.items() if name not in dropped}
    if home == "read-only":
        (tmp_path / "home").mkdir(mode=0o500)
        home = str(tmp_path / "home")
    if home is not None:
        caller["HOME"] = home
    line = command(
        *SEARCH, *NARROW, "--dataset", wrong_rows(tmp_path), "--output", "run", stub=True
    )
    done = subprocess.run(
        [*as_nobody, *line], cwd=tmp_path, env=caller, capture_output=True, text=True
    )
    assert "the baseline's accuracy is 0.00" in one_line(done)


@pytest.mark.full
def test_runs_with_one_path_are_told_apart_in_a_shared_storage(tmp_path):
    """The first run was moved away before the second one began at its path."""
    rows = [{"sentence": text, "label": label} for text, label in TEXTS * 4]
    dataset = write_rows(tmp_path / "rows.jsonl", rows)
    url = f"sqlite:///{tmp_path}/study.db"
    search = functools.partial(
        command_line(tmp_path, stub=True),
        *(*SEARCH, *NARROW, "--dataset", dataset, "--storage", url, "--output", "run"),
        *("--time-budget", "12s"),
    )
    ids = []
    for further in ((), (), ("--resume",)):
        done = search(*further)
        assert done.returncode in (0, 1), done.stderr  # 1: no gain in so short a time
        ids.append(json.loads((tmp_path / "run" / "manifest.json").read_text())["run"])
        if len(ids) == 1:
            (tmp_path / "run").rename(tmp_path / "moved")
    assert ids[0] != ids[1] == ids[2]
    storage = optuna.storages.RDBStorage(url)
    trials = [
        trial
        for name in optuna.get_all_study_names(storage)
        for trial in optuna.load_study(study_name=name, storage=storage).trials
    ]
    runs = {trial.user_attrs["run"] for trial in trials}
    assert runs == {f"{tmp_path / 'run'}#{one}" for one in ids[:2]}
