"""The committed run of the demo is whole, and what this version would write of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pydantic import TypeAdapter

from autotune.commands.rebuild import rebuild
from autotune.report.schema import Report
from autotune.store.folder import RunFolder

EXAMPLE = RunFolder(Path(__file__).parents[2] / "reports" / "example")


def test_its_report_follows_the_schema():
    TypeAdapter(Report).validate_json(EXAMPLE.report_json.read_text(), strict=True)


def test_its_report_is_what_its_trials_say(tmp_path):
    shutil.copytree(EXAMPLE.path, tmp_path / "run")
    committed = json.loads(EXAMPLE.report_json.read_text())
    again = json.loads(json.dumps(rebuild(RunFolder(tmp_path / "run"))))
    assert again == committed
