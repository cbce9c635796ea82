from __future__ import annotations

import os
from dataclasses import replace

import pytest
from fakes import host

from autotune.driver.command import environment, worker_commands
from autotune.shared.errors import TrialFailure
from autotune.shared.records import Config

LIBRARIES = {"jemalloc": "/lib/libjemalloc.so.2", "tcmalloc": "/lib/libtcmalloc_minimal.so.4"}
HOST = replace(host(4), libraries=LIBRARIES)
IOMP = "/venv/lib/libiomp5.so"


def commands(**knobs):
    config = Config.of({"threads": 2, **knobs})
    return worker_commands(config, HOST, "/usr/bin/python3", IOMP)


def settings(**knobs):
    (command,) = commands(**knobs)
    return command.variables


def test_threads_are_set_before_the_worker_starts():
    (command,) = commands()
    assert command.variables["OMP_NUM_THREADS"] == "2"
    assert "--cpus" not in command.argv
    assert command.expected == {"threads": 2, "allocator": "default", "omp_wait": "default"}


def test_pinning_names_the_cpus_and_binds_the_threads():
    (command,) = commands(pinning="compact")
    assert command.argv[command.argv.index("--cpus") + 1] == "0,1"
    assert command.variables["OMP_PLACES"] == "{0},{1}"
    assert command.variables["OMP_PROC_BIND"] == "close"
    assert command.expected["cpus"] == "0,1"


def test_engines_with_their_own_pool_are_masked_but_not_bound():
    (command,) = commands(pinning="compact", mode="openvino")
    assert command.expected["cpus"] == "0,1"
    assert "OMP_PROC_BIND" not in command.variables


def test_instances_share_no_core():
    first, second = commands(pinning="compact", instances=2)
    assert first.expected["cpus"] == "0,1"
    assert second.expected["cpus"] == "2,3"
    assert first.argv[-4:] == ("--instance", "0", "--instances", "2")
    assert second.argv[-4:] == ("--instance", "1", "--instances", "2")


def test_allocators_are_preloaded_with_their_settings():
    found = settings(allocator="jemalloc", huge_pages=True)
    assert found["LD_PRELOAD"] == LIBRARIES["jemalloc"]
    assert "background_thread:true" in found["MALLOC_CONF"]
    assert found["MALLOC_CONF"].endswith("thp:always")
    assert settings(allocator="tcmalloc")["LD_PRELOAD"] == LIBRARIES["tcmalloc"]
    assert settings(huge_pages=True)["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


def test_the_allocator_is_preloaded_before_the_openmp_runtime():
    found = settings(allocator="tcmalloc", openmp="intel")
    assert found["LD_PRELOAD"] == f"{LIBRARIES['tcmalloc']}:{IOMP}"
    assert found["KMP_BLOCKTIME"] == "1"


def test_idle_threads_wait_as_asked():
    assert settings(omp_wait="passive")["OMP_WAIT_POLICY"] == "passive"
    assert settings(omp_wait="passive", openmp="intel")["KMP_BLOCKTIME"] == "0"


@pytest.mark.parametrize(
    "knobs", [{"openmp": "gnu"}, {"openmp": "intel"}, {"allocator": "jemalloc"}]
)
def test_a_missing_library_is_an_unsupported_failure(knobs):
    config = Config.of({"threads": 2, **knobs})
    with pytest.raises(TrialFailure, match=r"unsupported: .*install"):
        worker_commands(config, host(4), "/usr/bin/python3")


def test_a_worker_inherits_only_listed_variables():
    caller = {"PATH": "/bin", "OMP_NUM_THREADS": "64", "KMP_AFFINITY": "x", "PYTHONPATH": "/p"}
    (command,) = commands()
    found = environment(command, caller, "/run/tmp")
    user = {"USER": str(os.getuid())}
    assert found == {"PATH": "/bin", "TMPDIR": "/run/tmp", **user, **command.variables}


HUB = {
    "HF_HOME": "/h",
    "HF_HUB_ETAG_TIMEOUT": "3",
    "HF_DATASETS_OFFLINE": "1",
    "HUGGINGFACE_HUB_CACHE": "/c",
    "TRANSFORMERS_CACHE": "/t",
    "https_proxy": "p",
    "no_proxy": "localhost",
    "ALL_PROXY": "q",
    "LC_CTYPE": "C.UTF-8",
}


def test_a_worker_finds_the_hub_and_its_cache_as_its_caller_does():
    (command,) = commands()
    caller = {"HOME": "/home/me", "USER": "me", "OMP_NUM_THREADS": "64", **HUB}
    found = environment(command, caller, "/run/tmp")
    assert {"HOME": "/home/me", "USER": "me", **HUB}.items() <= found.items()
    assert found["OMP_NUM_THREADS"] == "2"


def test_a_user_without_an_entry_gets_a_home_and_a_name(monkeypatch):
    monkeypatch.setattr("autotune.driver.command.home_folder", lambda: None)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    (command,) = commands()
    found = environment(command, {"PATH": "/bin"}, "/run/tmp")
    assert (found["HOME"], found["USER"]) == ("/run/tmp", "54321")
    found = environment(command, {"HOME": "/elsewhere", "LOGNAME": "me"}, "/run/tmp")
    assert (found["HOME"], found["LOGNAME"], found.get("USER")) == ("/elsewhere", "me", None)


def test_pinning_to_more_cores_than_there_are_is_an_unsupported_failure():
    with pytest.raises(TrialFailure, match="unsupported: 3 x 2 threads with pinning need"):
        commands(pinning="compact", instances=3)
