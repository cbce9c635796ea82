"""launch.sh with hostile values, run by a real shell with a worker that only looks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from fakes import host

from autotune.driver.command import Command, environment, worker_commands
from autotune.driver.runner import Inputs, measure_request, open_request
from autotune.emit.best import best_yaml
from autotune.emit.huggingface import ScriptLine, script_line
from autotune.emit.launch_script import LAUNCH_RULE, launch_script, requests
from autotune.shared.records import Config, ModelSource
from autotune.tasks.qa import QuestionAnswering

HOSTILE = [
    "a model",
    "it's",
    'say "hi"',
    "$(touch owned)",
    "`touch owned`",
    "a\nb; touch owned #",
    "*",
    "-rf",
    "ünï☃",
    "\u202eevil",
    "@WORKERS@",
]
CONFIG = Config.of(
    {
        "mode": "jit",
        "precision": "fp32",
        "attention": "sdpa",
        "threads": 2,
        "interop_threads": 1,
        "flush_denormals": False,
        "pinning": "compact",
        "batch_size": 4,
        "padding": "longest",
    }
)


def line(model):
    return script_line(
        CONFIG,
        script=QuestionAnswering.script,
        transformers="4.52.4",
        model=model,
        data="d.json",
        max_seq_length=384,
        doc_stride=128,
        variables={"OMP_NUM_THREADS": "2"},
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_data(tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    seen = "import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], sys.stdout)"
    command = Command(
        argv=(sys.executable, "-c", "import sys; sys.exit(0)", name), variables={"SETTING": name}
    )
    script = launch_script(
        [command, command],
        title=name,
        line=line(name),
        checker=("true",),
        scorer=(sys.executable, "-c", seen, name),
    )
    path = folder / "launch.sh"
    path.write_text(script, encoding="utf-8")
    done = subprocess.run(
        ["bash", str(path), "--json", name],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    argv, _ = json.loads(done.stdout)
    assert argv[0] == name
    assert argv[1] == "."
    assert argv[3:] == ["--json", name]
    assert not list(tmp_path.rglob("owned"))


def test_the_script_starts_the_command_that_was_measured(tmp_path):
    """The worker of the script sees the argv and environment the runner would give it."""
    (real,) = worker_commands(CONFIG, host(4), sys.executable)
    spy = tmp_path / "spy"
    spy.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"json.dump([sys.argv, dict(os.environ)], open({str(tmp_path / 'seen')!r}, 'w'))\n"
    )
    spy.chmod(0o755)
    command = Command(argv=(str(spy), *real.argv[1:]), variables=real.variables)
    path = tmp_path / "launch.sh"
    path.write_text(
        launch_script([command], title="t", line=line("m"), checker=("true",), scorer=("true",))
    )
    caller = {**os.environ, "OMP_NUM_THREADS": "99", "HF_HUB_OFFLINE": "1"}
    subprocess.run(["bash", str(path)], check=True, env=caller)
    argv, seen = json.loads((tmp_path / "seen").read_text())
    channels = argv.index("--requests")
    assert argv[1:channels] == list(real.argv[1:])
    shell = {"PWD", "SHLVL", "_", "LC_CTYPE"}  # set by shells and by Python itself
    temporary = Path(seen["TMPDIR"])
    assert {k: v for k, v in seen.items() if k not in shell} == environment(real, caller, temporary)
    assert not temporary.exists()  # it ends with the script


def test_a_worker_that_fails_gives_its_exit_code_and_words(tmp_path):
    body = "import sys; print('the reason', file=sys.stderr); sys.exit(7)"
    command = Command(argv=(sys.executable, "-c", body), variables={})
    path = tmp_path / "launch.sh"
    path.write_text(
        launch_script([command], title="t", line=line("m"), checker=("true",), scorer=("false",))
    )
    done = subprocess.run(
        ["bash", str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 7
    assert "the reason" in done.stderr
    assert not list(tmp_path.glob("autotune-launch*"))


def test_the_requests_of_the_script_are_those_of_the_search():
    source = ModelSource(path="/m", head="H", outputs={"logits": "batch"})
    inputs = Inputs(
        source=source,
        features="/run/workload",
        calibration="/run/workload/calibration",
        instruction_sets=("avx2",),
        cache="/run/.work/cache",
    )
    first, second = map(json.loads, requests(CONFIG, inputs).splitlines())
    assert first["args"] == {
        **json.loads(json.dumps(open_request(CONFIG, inputs))),
        "features": "workload",
        "calibration": "workload/calibration",
        "reference": None,
        "cache": None,
    }
    assert second["args"] == json.loads(json.dumps(measure_request(CONFIG, LAUNCH_RULE)))


@pytest.mark.parametrize("name", HOSTILE)
def test_best_yaml_reads_back_whatever_the_model_is_called(name):
    source = ModelSource(path=name, head="H", outputs={"logits": "batch"})
    text = best_yaml(
        CONFIG,
        source=source,
        task="qa",
        max_seq_length=384,
        doc_stride=128,
        stack={"torch": "2.8.0"},
        host={"cores": 2},
        promise={"median": 1.0},
        engine={"files": []},
        environment={"OMP_NUM_THREADS": "2"},
        cpus=["0,1"],
    )
    content = yaml.safe_load(text)
    assert content["model"]["path"] == name
    assert Config.of(content["config"]) == CONFIG
    assert content["id"] == CONFIG.id


def test_unexpressed_parts_are_comments():
    missing = ScriptLine(
        variables={}, argv=("python",), not_expressed=("a\nrm -rf x",), source="here"
    )
    script = launch_script(
        [Command(argv=("true",), variables={})],
        title="t",
        line=missing,
        checker=("true",),
        scorer=("true",),
    )
    assert "#   - a\\nrm -rf x" in script


def test_instances_start_side_by_side_and_meet(tmp_path):
    config = Config.of({**CONFIG, "threads": 1, "instances": 2})
    commands = worker_commands(config, host(4), sys.executable)
    spy = tmp_path / "spy"
    spy.write_text(
        f"#!{sys.executable}\nimport json, os, sys, time\n"
        "where = sys.argv[sys.argv.index('--together') + 1]\n"
        "index = sys.argv[sys.argv.index('--instance') + 1]\n"
        f"json.dump(sys.argv, open({str(tmp_path)!r} + '/seen-' + index, 'w'))\n"
        "open(where + '/here-' + index, 'w')\n"
        "while not all(os.path.exists(where + f'/here-{i}') for i in range(2)): time.sleep(0.01)\n"
    )
    spy.chmod(0o755)
    spied = [Command(argv=(str(spy), *c.argv[1:]), variables=c.variables) for c in commands]
    path = tmp_path / "launch.sh"
    path.write_text(
        launch_script(spied, title="t", line=line("m"), checker=("true",), scorer=("true",))
    )
    subprocess.run(["bash", str(path)], check=True, timeout=60)
    for index, command in enumerate(commands):
        argv = json.loads((tmp_path / f"seen-{index}").read_text())
        assert argv[1 : argv.index("--requests")] == list(command.argv[1:])
        assert argv[argv.index("--cpus") + 1] == str(index)


def test_an_instance_that_fails_ends_the_others(tmp_path):
    bodies = (
        "import sys; print('the reason', file=sys.stderr); sys.exit(7)",
        "import time; time.sleep(600)",
    )
    commands = [Command(argv=(sys.executable, "-c", body), variables={}) for body in bodies]
    path = tmp_path / "launch.sh"
    path.write_text(
        launch_script(commands, title="t", line=line("m"), checker=("true",), scorer=("true",))
    )
    done = subprocess.run(
        ["bash", str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 7
    assert "the reason" in done.stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_script_that_is_told_to_end_leaves_no_worker(tmp_path, sent):
    body = (
        "import os, sys, time\n"
        "where = sys.argv[sys.argv.index('--workdir') + 1]\n"
        f"seen = {str(tmp_path)!r} + '/pid-' + os.path.basename(where)\n"
        "open(seen, 'w').write(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    command = Command(argv=(sys.executable, "-c", body), variables={})
    path = tmp_path / "launch.sh"
    path.write_text(
        launch_script([command] * 2, title="t", line=line("m"), checker=("true",), scorer=("true",))
    )
    script = subprocess.Popen(
        ["bash", str(path)],
        start_new_session=True,
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),  # make may have been told to ignore
    )
    files = [tmp_path / "pid-0", tmp_path / "pid-1"]
    deadline = time.monotonic() + 60
    while not all(f.exists() and f.read_text() for f in files):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    script.send_signal(sent)
    assert script.wait(timeout=60) == 128 + sent
    workers = [Path("/proc") / f.read_text() for f in files]
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_a_worker_started_ends_with_it(tmp_path):
    body = (
        "import os, sys, time\n"
        "child = os.fork()\n"
        "if child == 0: time.sleep(600)\n"
        f"open({str(tmp_path)!r} + '/child', 'w').write(str(child))"
    )
    command = Command(argv=(sys.executable, "-c", body), variables={})
    path = tmp_path / "launch.sh"
    path.write_text(
        launch_script([command], title="t", line=line("m"), checker=("true",), scorer=("true",))
    )
    subprocess.run(["bash", str(path)], check=True, timeout=60)
    child = Path("/proc") / (tmp_path / "child").read_text() / "stat"
    deadline = time.monotonic() + 10
    while child.exists() and child.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
