"""Runs side by side, and a run in another tool's layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bench_search import Bench
from emit_line import LINE
from fakes import FakeRunner, pass_seconds
from test_report import manifest

from autotune.commands.compare import compare, tables
from autotune.commands.export import export
from autotune.commands.search.finish import write_report
from autotune.report.build import Context, build
from autotune.search.objective import objective_named
from autotune.shared.errors import ResumeError
from autotune.shared.records import Config
from autotune.store.folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """Leaves the folder of a finished search: run("name", torch="2.8", times=1.0)."""

    def leave(name, torch="2.8.0", times=1.0, objective="throughput"):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        asked = manifest("model")
        asked["model"] |= {"digest": "0123456789abcdef", "model_type": "bert"}
        asked["workload"] |= {"rows": "fedcba9876543210"}
        asked["stacks"]["default"]["versions"] = {"torch": torch}
        asked["objective"] = objective
        folder.write_manifest(asked)
        bench = Bench(folder.path)
        runner = FakeRunner(seconds=lambda config: times * pass_seconds(config))
        context = Context(
            manifest=asked,
            metrics=("f1",),
            objective=objective_named(objective),
            line=LINE,
            elapsed_s=1.0,
        )
        write_report(folder, build(bench.search(runner, trials=25), context))
        return folder.path

    return leave


def test_runs_are_set_side_by_side_with_what_differs(run):
    found = compare([run("one"), run("two", torch="2.13.0", times=0.5)])
    one, two = found["runs"]
    for entry, times in ((one, 1.0), (two, 0.5)):
        seconds = times * pass_seconds(Config.of(entry["best"]["config"]))
        assert entry["best"]["objective"]["median"] == pytest.approx(10 / seconds)
    assert found["differs"] == {"default: torch": ["2.8.0", "2.13.0"]}
    for values in found["engines"].values():
        assert len(values) == 2
    words = json.dumps(tables(found))
    assert "2.13.0" in words
    assert "by engine" in words


def test_runs_of_two_objectives_are_not_compared(run):
    folders = [run("one"), run("two", objective="latency")]
    with pytest.raises(ResumeError, match="compare runs of one objective"):
        compare(folders)


def test_a_folder_without_a_report_is_refused(tmp_path, run):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResumeError, match="autotune report"):
        compare([run("one"), tmp_path / "empty"])
    (tmp_path / "empty" / "report.json").write_text('{"format": 99}')
    with pytest.raises(ResumeError, match="not of format 1"):
        compare([tmp_path / "empty"])


def test_compare_on_the_command_line(autotune, run):
    folders = (run("one"), run("two"))
    done = autotune("compare", *folders)
    assert done.returncode == 0, done.stderr
    assert "speedup" in done.stdout
    assert "what differs" not in done.stdout
    assert len(json.loads(autotune("compare", *folders, "--json").stdout)["runs"]) == 2


def test_a_run_is_exported_as_optimum_benchmarks_reports(run, tmp_path, autotune):
    written = export(RunFolder(run("one")), tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == [
        "baseline/benchmark_config.json",
        "baseline/benchmark_report.json",
        "best/benchmark_config.json",
        "best/benchmark_report.json",
    ]
    config, report = (json.loads(path.read_text()) for path in written[2:])
    assert config["backend"]["task"] == "question-answering"
    assert config["autotune"]["config"]["mode"] == "ipex_jit"
    latency = report["forward"]["latency"]
    assert latency["count"] == len(latency["values"])
    assert latency["p90"] == pytest.approx(np.percentile(latency["values"], 90))
    assert report["forward"]["throughput"]["unit"] == "samples/s"
    assert report["load"]["latency"]["total"] == 2.0  # import and prepare
    done = autotune("export", tmp_path / "one", "--output", tmp_path / "again")
    assert done.stdout.count("\n") == 4
