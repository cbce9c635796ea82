"""best.yaml: enough for a person to build the engine by hand, wherever the run lies."""

from __future__ import annotations

import yaml
from fakes import host, surroundings

from autotune.commands.search.finish import engine_by_hand
from autotune.driver.command import worker_commands
from autotune.driver.runner import EngineFiles
from autotune.emit.best import best_yaml
from autotune.shared.records import ModelSource
from autotune.space import complete
from autotune.store.folder import RunFolder

CONFIG = complete(
    surroundings(),
    {"mode": "openvino", "precision": "int8_static", "padding": "longest", "threads": 2},
)
PROPERTIES = {"INFERENCE_NUM_THREADS": "2", "NUM_STREAMS": "1"}


def run_with_engine(path):
    run = RunFolder(path)
    place = run.engine / "default"
    place.mkdir(parents=True)
    for name in ("graph.xml", "graph.bin"):
        (place / name).write_text("")
    run.calibration.mkdir(parents=True)
    return run


def exported():
    return EngineFiles(files=(), prepare_s=1.0, again_s=None, properties=PROPERTIES)


def test_the_engine_is_named_by_files_in_the_run_and_by_what_its_library_was_told(tmp_path):
    run = run_with_engine(tmp_path / "run")
    assert engine_by_hand(run, exported()) == {
        "files": ["engine/default/graph.bin", "engine/default/graph.xml"],
        "calibration": "workload/calibration",
        "properties": PROPERTIES,
    }


def test_an_engine_without_files_names_none(tmp_path):
    assert engine_by_hand(RunFolder(tmp_path), None) == {
        "files": [],
        "calibration": None,
        "properties": {},
    }


def test_the_file_holds_the_process_too_and_no_path_of_the_run(tmp_path):
    """A run may be moved: what lies in it is named relative to it."""
    run = run_with_engine(tmp_path / "run")
    commands = worker_commands(CONFIG, host(4), "python")
    text = best_yaml(
        CONFIG,
        source=ModelSource(path="owner/model", head="h", outputs={}),
        task="qa",
        max_seq_length=384,
        doc_stride=128,
        stack={"python": "python"},
        host={},
        promise={},
        engine=engine_by_hand(run, exported()),
        environment=commands[0].variables,
        cpus=[str(one.expected.get("cpus", "any")) for one in commands],
    )
    assert str(tmp_path) not in text
    found = yaml.safe_load(text)
    assert found["engine"]["properties"] == PROPERTIES
    assert found["environment"]["OMP_NUM_THREADS"] == "2"
    assert len(found["cpus"]) == 1
    for file in found["engine"]["files"]:
        assert (run.path / file).is_file()
