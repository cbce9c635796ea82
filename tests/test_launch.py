from __future__ import annotations

from fakes import host

from autotune.launch import environment, worker_command
from autotune.records import Config


def command(**knobs):
    return worker_command(Config.of({"threads": 2, **knobs}), host(4), "/usr/bin/python3")


def test_threads_are_set_before_the_worker_starts():
    assert command().settings["OMP_NUM_THREADS"] == "2"
    assert "--cpus" not in command().argv


def test_compact_pinning_names_the_cpus():
    argv = command(pinning="compact").argv
    assert argv[argv.index("--cpus") + 1] == "0,1"


def test_the_environment_is_explicit():
    caller = {"PATH": "/bin", "OMP_NUM_THREADS": "64", "KMP_AFFINITY": "x", "PYTHONPATH": "/p"}
    assert environment(command(), caller) == {"PATH": "/bin", **command().settings}
