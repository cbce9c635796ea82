"""Bad input on the real command line: exit code 2, one line, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from commands import STUB, command
from events import events, reported

from autotune import demo

SMALL = ("--max-samples", "4", "--trials", "2", "--time-budget", "30s")


def search(autotune, *arguments, model="demo", **options):
    return autotune("search", "--model", model, "--output", "run", *arguments, **options)


@pytest.fixture
def refused(autotune, stubbed, tmp_path):
    """Runs a search that must be refused; returns its line. With `stub` no worker needs torch."""

    def run(*arguments, model="demo", stub=False, **options):
        before = sorted(tmp_path.iterdir())
        done = search(stubbed if stub else autotune, *arguments, model=model, **options)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        lines = [one for one in done.stderr.splitlines() if one.startswith(("autotune:", "Error:"))]
        assert len(lines) == 1, done.stderr
        assert sorted(tmp_path.iterdir()) == before
        return lines[0]

    return run


def write(path, text):
    path.write_text(text)
    return str(path)


def test_model_folder_that_does_not_exist(refused):
    assert "neither a folder nor a model id" in refused(model="./nowhere")


def test_model_id_that_is_none(refused):
    assert "neither a folder nor a model id" in refused(model="$(touch x) ; rm")


def test_model_folder_without_a_config(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(model=str(tmp_path / "empty"))


def test_model_that_is_missing(autotune):
    done = autotune("search", "--task", "qa")
    assert done.returncode == 2
    assert "--model is needed" in done.stderr


@pytest.mark.model
def test_hub_that_cannot_be_reached(refused, tmp_path):
    line = refused("--dataset", str(demo.DATASET), model="nobody/no-such-model")
    assert "hf download nobody/no-such-model --local-dir DIR" in line
    assert "--model DIR" in line


@pytest.mark.model
def test_model_without_a_head_for_the_task(refused, shared):
    model = shared / "models" / "minilm-l6-sst2"
    line = refused("--task", "qa", "--dataset", str(demo.DATASET), model=str(model))
    assert "no trained head for AutoModelForQuestionAnswering" in line
    assert "fine-tuned for the task" in line


def test_default_dataset_that_cannot_be_reached(refused):
    pytest.importorskip("datasets")
    line = refused(model=str(demo.MODEL))
    assert "the hub does not answer" in line
    assert "--dataset FILE" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"data": [{"sentence": "a", "label": 1}]}', "row 1 lacks question, context, answers"),
        ('{"data": []}', "holds no questions"),
        ("", "is empty"),
        ("{", "neither JSON nor JSON lines"),
    ],
)
def test_dataset_that_does_not_fit(refused, tmp_path, content, words):
    assert words in refused("--dataset", write(tmp_path / "data.json", content))


def test_dataset_that_does_not_exist(refused):
    assert "no such file" in refused("--dataset", "none.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("knobs: [", "not valid YAML"),
        ("version: 1\ntask: qa\nknobs: {}\nknob: 1\n", "known keys: version, task"),
        ("version: 1\ntask: qa\nknobs: {sped: [1]}\n", "unknown knob 'sped'; autotune spaces show"),
        ("version: 1\ntask: poetry\nknobs: {}\n", "is a space for task poetry"),
    ],
)
def test_space_that_is_malformed(refused, tmp_path, content, words):
    assert words in refused("--space", write(tmp_path / "space.yaml", content))


def test_space_that_is_unknown(refused):
    assert "no such space; known: " in refused("--space", "everything")


def test_constraint_that_nothing_satisfies(refused, tmp_path):
    text = (
        "version: 1\ntask: qa\nknobs: {mode: eager}\n"
        "constraints: [{name: never, forbid: {mode: eager}, because: of a test}]\n"
    )
    line = refused("--space", write(tmp_path / "space.yaml", text), stub=True)
    assert "no configuration satisfies" in line
    assert "never: of a test" in line


def test_more_threads_than_cores(refused):
    line = refused("--set", "threads=4096", stub=True)
    assert "threads must be at most the" in line
    assert "got 4096" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "precision=fp7"), "precision must be one of"),
        (("--set", "nonsense"), "--set takes KNOB=VALUE"),
        (("--time-budget", "soon"), "a duration is written 90s, 10m or 1h30m"),
        (("--max-accuracy-drop", "150%"), "expected a share such as 1%"),
        (("--max-memory", "lots"), "a size is written 512m or 4g, got 'lots'"),
        (("--task", "poetry"), "--task must be one of qa"),
        (("--objective", "joy"), "'joy' is not one of"),
        (("--objective", "server"), "pass --max-latency-ms"),
        (("--sampler", "randon"), "--sampler randon: no such sampler; did you mean random"),
        (("--sampler", "cmaes"), "--sampler cmaes: CMA-ES moves numbers"),
        (("--max-latency-ms", "50"), "is the limit of --objective server"),
        (("--trials", "0"), "0 is not in the range"),
        (("--doc-stride", "500"), "--doc-stride must be below --max-seq-length 384"),
        (("--resume",), "holds no run"),
        (("--stack", "a b=/x"), "--stack takes NAME=PYTHON"),
        (("--stack", "new=/nowhere/python"), "/nowhere/python is not a Python interpreter"),
        (("--stack", "never-created"), "no such stack"),
        (("--calibration", "none.json"), "no such file"),
        (("--calibration", "~nouser/x.json"), "there is no such home folder"),
        (("--dataset", "~nouser/x.json"), "there is no such home folder"),
        (("--output", "~nouser/run"), "there is no such home folder"),
        (("--stack", "x=~nouser/python"), "there is no such home folder"),
        (("--space", "~nouser/x.yaml"), "there is no such home folder"),
        (("--dataset", "d" * 300), "File name too long"),
        (("--calibration", "d" * 300 + ".json"), "File name too long"),
        (("--output", "o" * 300), "--output .* cannot be read: File name too long"),
        (("--resume", "--output", "o" * 300), "File name too long"),
        (("--stack", f"x={'p' * 300}"), "--stack x .* File name too long"),
        (("--space", f"./{'s' * 300}.yaml"), "File name too long"),
        (("--max-latency-ms", "nan"), "expected a number, got 'nan'"),
        (("--max-latency-ms", "inf"), "expected a number, got 'inf'"),
        (("--seed", "-1"), "-1 is not in the range"),
        (("--seed", "99999999999"), "is not in the range"),
        (("--max-memory", "9" * 400 + "g"), "a size is written 512m or 4g"),
        (("--time-budget", "9" * 400), "a duration is written 90s"),
    ],
)
def test_options_that_make_no_sense(refused, tmp_path, arguments, words):
    if arguments == ("--resume",):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "diary.txt").write_text("dear diary")
    assert re.search(words, refused(*arguments))


@pytest.mark.parametrize("model", ["m" * 300, f"./{'m' * 300}", "~nouser/model", "./m\udcff"])
def test_model_names_that_are_no_path(refused, model):
    words = "File name too long|no such home folder|no text in this locale"
    assert re.search(words, refused(model=model))


def test_output_that_is_a_file(refused, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "--output file is a file; pass a folder" in refused("--output", "file")
    again = refused("--output", "file", "--resume")
    assert "--output file is a file; pass the folder of a run" in again


AS_ANYBODY = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
"""Starts a command without root's right to enter every folder."""


@pytest.fixture
def locked(tmp_path):
    """A folder that a command started with AS_ANYBODY may not enter."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0)
    try:
        entered = subprocess.run([*AS_ANYBODY, "ls", folder], capture_output=True).returncode == 0
    except OSError:
        entered = True
    if entered:
        pytest.skip("may enter every folder")
    yield folder
    folder.chmod(0o700)


UNREADABLE = [
    ("search", "--model", "locked/m"),
    ("search", "--model", "demo", "--dataset", "locked/d.json"),
    ("search", "--model", "demo", "--output", "locked/run"),
    ("search", "--model", "demo", "--output", "locked"),
    ("search", "--model", "demo", "--output", "locked", "--resume"),
    ("search", "--model", "demo", "--stack", "x=locked/python"),
    ("search", "--model", "demo", "--stack", "x=locked"),
    ("search", "--model", "demo", "--space", "locked/x.yaml"),
    *((name, "locked/run") for name in ("report", "compare", "run", "verify")),
    ("export", "locked/run", "--output", "out"),
    ("serve-test", "locked/best.yaml", "--rate", "1"),
    ("learned", "--forget"),
    ("stack", "create", "new", "--extra", "openmp"),
]


@pytest.mark.parametrize("line", UNREADABLE)
def test_a_folder_that_may_not_be_entered(tmp_path, locked, line):
    done = subprocess.run(
        [*AS_ANYBODY, *command(*line)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(locked)},
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("autotune: ")]
    assert "Permission denied" in line
    assert "Traceback" not in done.stderr


TO_STANDARD_OUTPUT = [
    ("--help",),
    ("--version",),
    ("spaces", "list"),
    ("spaces", "validate", "qa"),
    ("learned",),
    ("stack", "list", "--json"),
]


@pytest.mark.parametrize("line", TO_STANDARD_OUTPUT)
def test_a_standard_output_that_is_full_is_one_line(tmp_path, line):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(*line), stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, text=True
        )
    assert done.returncode == 2
    assert done.stderr == ("autotune: standard output cannot be written: No space left on device\n")


def test_resume_without_a_folder(autotune):
    done = autotune("search", "--model", "demo", "--resume")
    assert done.returncode == 2
    assert "--resume needs the run to resume" in done.stderr


def test_output_that_holds_something_else(refused, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "diary.txt").write_text("dear diary")
    assert "exists and is not empty; add --resume" in refused()
    assert (tmp_path / "run" / "diary.txt").read_text() == "dear diary"


def test_output_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    done_line = refused("--output", str(tmp_path / "file" / "run"))
    assert "cannot be written" in done_line


def mismatched(folder):
    """An interpreter whose IPEX is of another series, faked by its metadata alone."""
    metadata = folder / "site" / "intel_extension_for_pytorch-2.5.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: intel-extension-for-pytorch\nVersion: 2.5.0\n"
    )
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nexport PYTHONPATH={folder}/site\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


@pytest.mark.model
def test_ipex_that_does_not_match_torch(tmp_path):
    from autotune.driver.start import ask_for_probe, probed, start_worker
    from autotune.host import detect

    wrapper = mismatched(tmp_path)
    with start_worker(detect(), str(wrapper), tmp_path / "work") as worker:
        ask_for_probe(worker, detect())
        stack = probed(worker)
    assert "2.5.0 needs torch 2.5.x" in stack.ipex
    assert stack.modes["ipex"]["fp32"] == stack.ipex
    assert stack.modes["jit"]["fp32"] is None


@pytest.mark.model
def test_ipex_that_is_missing_but_asked_for(refused):
    import importlib.util

    if importlib.util.find_spec("intel_extension_for_pytorch"):
        pytest.skip("it is installed here")
    line = refused("--set", "mode=ipex")
    assert "intel-extension-for-pytorch is not installed" in line


@pytest.mark.model
def test_doctor_as_json(autotune):
    done = autotune("doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["host"]["cores"] >= 1
    assert found["stacks"]["default"]["modes"]["eager"]["fp32"] is None
    assert {"allocator=jemalloc", "openmp=intel", "huge_pages=true"} <= set(found["settings"])
    assert "peak" not in found["stacks"]["default"]


@pytest.mark.model
@pytest.mark.full
def test_doctor_measures_the_peak(autotune):
    lines = autotune("doctor", "--peak").stdout
    assert re.search(r"peak +fp32 +\d+ billion operations a second with 1 thread\n", lines)
    assert "process settings" in lines
    assert f"stack default: {sys.executable}" in lines


@pytest.mark.model
def test_a_named_stack_that_does_not_match_is_refused_on_the_command_line(refused, tmp_path):
    wrapper = mismatched(tmp_path / "stack")
    line = refused("--stack", f"old={wrapper}")
    assert "--stack old: intel-extension-for-pytorch 2.5.0 needs torch 2.5.x" in line


def test_stack_commands(autotune, tmp_path):
    empty = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert autotune("stack", "list", "--json", **empty).stdout.strip() == "{}"
    done = autotune("stack", "create", "new", "--extra", "warp", **empty)
    assert done.returncode == 2
    assert "--extra must be one of ipex, onnxruntime" in done.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.model
def test_a_search_leaves_everything(finished):
    names = {path.name for path in finished.run.iterdir()}
    assert names == {
        "manifest.json",
        "trials.jsonl",
        "study.journal",
        "best.yaml",
        "launch.sh",
        "launch.jsonl",
        "report.json",
        "report.md",
        "report.html",
        "workload",
    }
    check = finished.report["launch_check"]
    assert "error" not in check, check
    assert check["same_metrics"]
    assert "baseline" in finished.output


@pytest.mark.model
def test_a_path_is_data_wherever_it_goes(finished):
    assert finished.report["launch_check"]["same_metrics"]
    assert not list(finished.run.parent.rglob("owned"))
    assert list((finished.run / "workload").iterdir())


def test_a_search_resumes(stubbed, tmp_path):
    jit = ("--set", "mode=jit", "--set", "precision=fp32", "--dataset", STUB / "questions.json")
    jit = (*jit, "--sampler", "random")
    done = search(stubbed, "--max-samples", "4", "--trials", "1", "--time-budget", "20s", *jit)
    assert done.returncode == 1, done.stderr  # nothing but the baseline was tried
    run = tmp_path / "run"
    before = (run / "trials.jsonl").read_bytes()

    different = search(stubbed, "--resume", "--max-seq-length", "256", "--trials", "2")
    assert different.returncode == 2
    assert "max_seq_length of this run is 384, now it is 256" in different.stderr
    assert (run / "trials.jsonl").read_bytes() == before

    different = search(stubbed, "--resume", "--sampler", "tpe", "--trials", "2")
    assert different.returncode == 2
    assert 'sampler of this run is "random", now it is "tpe"' in different.stderr

    longer = ("--trials", "2", "--time-budget", "60s")
    more = stubbed("search", "--resume", "--output", "run", *longer, "--json")
    assert more.returncode == 0, more.stderr
    assert reported(more)["trials"]["measured"] == 2
    assert reported(more)["sampler"] == "random"
    assert {event["event"] for event in events(more)} == {"note", "started", "trial", "finished"}
    assert (run / "trials.jsonl").read_bytes().startswith(before)


ROWS_OF_TASKS = {  # the stub answers by the lengths of words, modulo 2
    "text-classification": [
        {"sentence": text, "label": label}
        for text, label in (("to be", 0), ("a cat", 0), ("the fox ran", 1), ("an ant", 1))
    ],
    "token-classification": [
        {"tokens": ["ab", "abc", "abcd"], "ner_tags": [0, 1, 0]},
        {"tokens": ["abc", "a", "ab"], "ner_tags": [1, 1, 0]},
    ],
    "feature-extraction": [{"text": "to be"}, {"text": "a cat ran"}, {"text": "fox"}],
}


@pytest.mark.parametrize("task", ROWS_OF_TASKS)
def test_a_search_of_every_task_resumes(stubbed, tmp_path, task):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS_OF_TASKS[task] * 8))
    options = ("--task", task, "--dataset", str(rows), "--set", "mode=jit", "--set", "threads=1")
    done = search(stubbed, *options, "--trials", "1")
    assert done.returncode == 1, done.stderr  # nothing but the baseline was tried
    before = (tmp_path / "run" / "trials.jsonl").read_bytes()
    more = search(stubbed, "--resume", "--trials", "2", "--json")
    assert more.returncode == 0, more.stderr
    assert reported(more)["trials"]["measured"] == 2
    assert (tmp_path / "run" / "trials.jsonl").read_bytes().startswith(before)
    refused = search(stubbed, "--resume", "--doc-stride", "5", "--trials", "3")
    assert refused.returncode == 2
    assert "--doc-stride" in refused.stderr


def test_a_model_that_needs_long_is_searched_on_fewer_rows_and_resumes_on_them(stubbed, tmp_path):
    rows, cache = tmp_path / "rows.jsonl", tmp_path / "cache"
    row = ROWS_OF_TASKS["text-classification"]
    rows.write_text("".join(json.dumps(one) + "\n" for one in row * 25))
    options = ("--task", "text-classification", "--dataset", str(rows), "--set", "threads=1")
    where = {"XDG_CACHE_HOME": str(cache)}

    def scored(output):
        manifest = json.loads((tmp_path / output / "manifest.json").read_text())
        return manifest["workload"]["examples"]

    fast = search(stubbed, *options, "--trials", "1", "--time-budget", "60s", **where)
    assert fast.returncode in (0, 1), fast.stderr
    assert scored("run") == 100
    (peaks,) = (cache / "autotune" / "peaks").iterdir()
    known = json.loads(peaks.read_text())  # and now a host that needs hours
    slow = {threads: dict.fromkeys(rates, 1e-3) for threads, rates in known["highest"].items()}
    peaks.write_text(json.dumps({"occasions": 99, "highest": slow}))
    more = ("search", "--model", "demo", "--output", "slow")
    done = stubbed(*more, *options, "--trials", "1", "--time-budget", "60s", **where)
    assert done.returncode in (0, 1), done.stderr
    assert "needs long for 100 rows: searching on 64" in done.stderr
    assert scored("slow") == 64
    peaks.unlink()
    again = stubbed(*more, "--resume", "--trials", "2", "--time-budget", "60s", **where)
    assert again.returncode in (0, 1), again.stderr
    assert scored("slow") == 64
    refused = stubbed(*more, "--resume", "--max-samples", "0", "--trials", "3", **where)
    assert refused.returncode == 2, refused.stderr
    assert "--resume: workload" in refused.stderr
    told = stubbed(*more[:3], *options, "--output", "all", "--max-samples", "0", *("--trials", "1"))
    assert told.returncode in (0, 1), told.stderr
    assert scored("all") == 100


def test_a_baseline_that_fails_is_explained_and_has_a_page(stubbed, tmp_path):
    done = search(stubbed, *SMALL, "--trial-timeout", "0.001s")
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("autotune: ")]
    assert "the baseline (eager float32) failed, timeout" in line
    assert "run/report.html" in line
    assert "no result" in (tmp_path / "run" / "report.html").read_text()
    assert not (tmp_path / "run" / ".work").exists()
