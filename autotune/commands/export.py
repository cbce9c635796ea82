"""`autotune export`: a finished run in the layout of another tool."""

from __future__ import annotations

import json
from pathlib import Path

from autotune.commands.rebuild import read_run
from autotune.emit.optimum import benchmark_config, benchmark_report
from autotune.search.ranking import measured
from autotune.shared.errors import OutputError
from autotune.store.folder import RunFolder, write


def export(folder: RunFolder, output: Path) -> list[Path]:
    """Write `baseline/` and `best/` into `output`, each with optimum-benchmark's two files.

    Returns the files. Raises ResumeError and OutputError.
    """
    run = read_run(folder)
    written: list[Path] = []
    for name, trial in (("baseline", run.result.baseline), ("best", run.result.best)):
        place = output / name
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"--output {output} cannot be written: {error.strerror}") from error
        files = {
            "benchmark_config.json": benchmark_config(name, trial, run.manifest),
            "benchmark_report.json": benchmark_report(measured(trial)),
        }
        for file, content in files.items():
            write(place / file, json.dumps(content, indent=2, allow_nan=False) + "\n")
            written.append(place / file)
    return written
