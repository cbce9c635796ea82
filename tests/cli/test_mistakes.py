"""Natural mistakes on the command line: one line each, with what to do."""

from __future__ import annotations

import contextlib
import os
import socket
import threading

import pytest
from commands import STUB
from run_folder import leave_run

from autotune import __version__, demo


def last_line(done):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_result_in_the_place_of_a_command_is_named(autotune, tmp_path):
    leave_run(tmp_path / "my run")
    assert "to run it: autotune run best.yaml" in last_line(autotune("best.yaml"))
    assert "to run it: autotune run 'my run'" in last_line(autotune("my run"))


def test_a_command_that_is_nearly_one_is_suggested(autotune):
    assert "'serch'" in (line := last_line(autotune("serch")))
    assert "search" in line.partition("'serch'")[2]


def test_the_version_is_a_command_and_an_option(autotune):
    for word in ("version", "--version"):
        done = autotune(word)
        assert done.returncode == 0
        assert done.stdout == f"autotune, version {__version__}\n"


def test_a_list_without_stacks_says_how_to_make_one(autotune, tmp_path):
    done = autotune("stack", "list", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.stdout == "no stacks; make one: autotune stack create NAME --extra torch\n"


@pytest.mark.parametrize(
    ("setting", "words"),
    [("thread=1", "did you mean threads?"), ("sped=1", "spaces show qa lists all")],
)
def test_an_unknown_knob_gets_the_nearest_name_and_no_long_list(autotune, setting, words):
    line = last_line(autotune("search", "--model", "demo", "--set", setting))
    assert words in line
    assert len(line) < 120
    assert "interop_threads" not in line


@pytest.mark.parametrize("command", ["run", "verify", "compare", "report", "serve-test"])
def test_a_run_that_is_missing_is_said_to_be_missing(autotune, command):
    options = ("--rate", "1") if command == "serve-test" else ()
    line = last_line(autotune(command, "best.yaml", *options))
    assert line.startswith("autotune: best.yaml does not exist; pass the folder of a run")
    assert "nothere does not exist" in last_line(autotune(command, "nothere", *options))


@pytest.mark.parametrize("command", ["run", "verify", "compare", "report"])
def test_a_mistyped_file_beside_a_run_is_not_the_run(autotune, tmp_path, command):
    run = leave_run(tmp_path / "run")
    (run.path / "beast.yaml").write_text(run.best.read_text())
    line = last_line(autotune(command, "run/beast.yaml"))
    assert line == (
        "autotune: run/beast.yaml is no file of a run; pass the folder of a run, or its best.yaml"
    )


def test_a_folder_is_no_dataset(autotune, tmp_path):
    (tmp_path / "data").mkdir()
    line = last_line(autotune("search", "--model", "demo", "--dataset", "data"))
    assert line.startswith("autotune: dataset data is a folder; pass one file: ")


NOWHERE = {"HF_HUB_OFFLINE": "", "HF_ENDPOINT": "http://127.0.0.1:9"}
"""A hub at a port on which nobody listens."""


def test_without_a_network_a_model_of_the_hub_is_one_line_at_once(autotune, tmp_path):
    """No worker is started for it, and no library says that it tries again."""
    done = autotune(
        *("search", "--model", "nobody/no-such-model", "--dataset", STUB / "questions.json"),
        HF_HOME=str(tmp_path / "empty"),
        **NOWHERE,
    )
    line = last_line(done)
    assert line.startswith("autotune: --model nobody/no-such-model: it is not in the local cache")
    assert "hf download nobody/no-such-model --local-dir DIR" in line
    assert done.stderr.splitlines() == [
        "task: qa, as --task is not given and the model is not on this machine yet",
        line,
    ]
    again = autotune(
        *("run-qa", "--model_name_or_path", "nobody/no-such-model", "--do_eval"),
        *("--validation_file", STUB / "questions.json", "--output_dir", "out"),
        HF_HOME=str(tmp_path / "empty"),
        **NOWHERE,
    )
    assert last_line(again) == line


@pytest.fixture
def hub():
    """A hub that closes every connection; where it is, and the connections so far."""
    server, seen = socket.create_server(("127.0.0.1", 0)), []

    def close_all():
        with contextlib.suppress(OSError):
            while True:
                connection, peer = server.accept()
                seen.append(peer)
                connection.close()

    threading.Thread(target=close_all, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
    server.close()


def test_a_dataset_of_the_hub_is_announced_and_a_hub_is_asked_once(autotune, tmp_path, hub):
    """The hub's own library asks six times for each file, with pauses, and says so."""
    pytest.importorskip("datasets")
    place, seen = hub
    done = autotune(
        *("search", "--task", "qa", "--model", demo.MODEL),
        HF_HOME=str(tmp_path / "empty"),
        **{name: "" for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE") if name in os.environ},
        **{**NOWHERE, "HF_ENDPOINT": place},
    )
    line = last_line(done)
    assert len(seen) == 1
    assert done.stderr.splitlines() == [
        "fetching the dataset rajpurkar/squad from the hub, the default: no --dataset is given",
        line,
    ]
    assert line == (
        "autotune: dataset 'rajpurkar/squad' is not in the local cache, and the hub does not "
        "answer; download it where the hub is reachable and pass --dataset FILE"
    )
