"""The published schema of report.json is what reports follow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_search import Bench
from emit_line import LINE
from fakes import FakeRunner
from pydantic import TypeAdapter, ValidationError
from test_report import manifest

from autotune.report.build import Context, build
from autotune.report.schema import Report, schema
from autotune.search.objective import objective_named

PUBLISHED = Path(__file__).parents[2] / "docs" / "report.schema.json"


@pytest.fixture
def report(tmp_path):
    context = Context(
        manifest=manifest("model"),
        metrics=("f1",),
        objective=objective_named("throughput"),
        line=LINE,
        elapsed_s=1.0,
    )
    return json.loads(json.dumps(build(Bench(tmp_path).search(FakeRunner(), trials=25), context)))


def follows(report):
    TypeAdapter(Report).validate_json(json.dumps(report), strict=True)


def test_the_published_schema_is_that_of_the_code():
    made = "python -m autotune.report.schema > docs/report.schema.json"
    assert json.loads(PUBLISHED.read_text()) == schema(), f"make it again: {made}"


def test_a_report_follows_it(report):
    follows(report)
    report["engine"] = {"kept": False, "reason": "the disk is full"}
    report["launch_check"] = {"error": "exit code 3"}
    follows(report)


@pytest.mark.parametrize("key", ["verdict", "points", "noise"])
def test_a_report_that_lacks_something_does_not(report, key):
    del report[key]
    with pytest.raises(ValidationError):
        follows(report)


def test_a_key_that_nobody_described_does_not_either(report):
    report["best"]["mood"] = "good"
    with pytest.raises(ValidationError):
        follows(report)
