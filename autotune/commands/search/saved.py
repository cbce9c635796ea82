"""Keep the prepared engine beside best.yaml, so that production need not prepare it again.

Files that the search exported are copied. `--save-engine` also saves engines of other modes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autotune.driver.replies import Expected
from autotune.driver.runner import EngineFiles, Inputs, ProcessRunner
from autotune.host import Host
from autotune.shared.records import Config, Measurement, StackFacts
from autotune.shared.stopping import ONE_PASS
from autotune.store.folder import RunFolder


def save_exported(exported: EngineFiles, folder: RunFolder, stack: str) -> dict[str, Any]:
    """Put the files that the search itself ran the engine from into `folder.engine`. Returns what
    they hold and what they save, in seconds.

    Raises OSError where they cannot be copied.
    """
    shutil.rmtree(folder.engine, ignore_errors=True)
    place = folder.engine / stack
    place.mkdir(parents=True)
    for file in exported.files:
        try:
            os.link(file, place / file.name)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, place / file.name)
    again_s = exported.prepare_s if exported.again_s is None else exported.again_s
    return _kept(folder, exported.prepare_s, again_s)


def save_engine(
    config: Config,
    *,
    folder: RunFolder,
    host: Host,
    found: Mapping[str, StackFacts],
    inputs: Inputs,
    expected: Expected,
    timeout_s: float,
) -> dict[str, Any]:
    """Prepare `config` twice in fresh processes: once writing what its engine can keep into
    `folder.engine`, once from that. Returns what it holds and what it saves, in seconds.

    It is kept only where both give the same answers; `reason` says why it is not.
    """
    shutil.rmtree(folder.engine, ignore_errors=True)
    inputs = replace(
        inputs, cache=str(folder.engine.resolve()), for_production=True, reference=None
    )
    measured: list[Measurement] = []
    for _ in ("written", "read"):
        runner = ProcessRunner(
            host=host,
            stacks=found,
            inputs=inputs,
            expected=expected,
            workdir=folder.work / "save",
            timeout_s=timeout_s,
        )
        outcome = runner.run(config, ONE_PASS)
        runner.close()
        if outcome.measurement is None:
            assert outcome.failure is not None
            return _dropped(folder, f"{outcome.failure.kind}: {outcome.failure.detail}")
        measured.append(outcome.measurement)
        if not engine_files(folder):
            reason = f"{config['mode']} with these settings makes nothing that could be kept"
            return _dropped(folder, reason)
    if measured[0].outputs_digest != measured[1].outputs_digest:
        return _dropped(folder, "what was kept gives other answers")
    before, after = (m.phases_s["prepare"] for m in measured)
    return _kept(folder, before, after)


def _kept(folder: RunFolder, before_s: float, after_s: float) -> dict[str, Any]:
    return {
        "kept": True,
        "reason": None,
        "bytes": sum(file.stat().st_size for file in engine_files(folder)),
        "prepare_s": before_s,
        "prepare_from_kept_s": after_s,
    }


def engine_files(folder: RunFolder) -> list[Any]:
    """The files of the kept engine."""
    return [path for path in folder.engine.rglob("*") if path.is_file()]


def _dropped(folder: RunFolder, reason: str) -> dict[str, Any]:
    shutil.rmtree(folder.engine, ignore_errors=True)
    return {"kept": False, "reason": reason}
