"""What the fault tests share: a small search, and what must be left after one.

Every test runs on the stub worker (`tests/stub`), and in `make test-full` on the real one too.

With AUTOTUNE_FAULTS=FILE the outcomes on the real worker go there, as the table of
docs/reliability.md.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import STUB, command

SPACE = """\
version: 1
task: qa
knobs: {stack: auto, mode: eager, threads: 1, batch_size: 4}
"""
SMALL = ("--max-samples", "4", "--max-seq-length", "64", "--doc-stride", "16")
QUESTIONS = STUB / "questions.json"


outcomes: dict[str, list[str]] = {}


def pytest_runtest_logreport(report):
    on_real_worker = "faults/" in report.nodeid and "[real" in report.nodeid
    if on_real_worker and (report.when == "call" or report.skipped):
        name = report.nodeid.partition("::")[2].removeprefix("test_")
        sentence = name.replace("[real-", "[").replace("[real]", "").replace("_", " ")
        outcomes.setdefault(sentence, []).append(report.outcome)


def pytest_sessionfinish():
    place = os.environ.get("AUTOTUNE_FAULTS")
    if place:
        rows = [
            f"| {sentence} | {len(found)} | {', '.join(sorted(set(found)))} |"
            for sentence, found in outcomes.items()
        ]
        Path(place).write_text(
            "\n".join(["| fault | times | outcome |", "|---|---|---|", *rows, ""])
        )


def heed_signals() -> None:
    """Whoever runs the tests may have been told to ignore them."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Searches:
    """Searches in one folder, as a user starts them; with `stub`, of the stub worker."""

    def __init__(self, folder: Path, *, stub: bool) -> None:
        self.folder = folder
        self.stub = stub
        self.run = folder / "run"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        (folder / "space.yaml").write_text(SPACE)

    def start(self, *options: str, resume: bool = False) -> subprocess.Popen[str]:
        asked = ["--resume"] if resume else ["--model", "demo", "--space", "space.yaml", *SMALL]
        if self.stub and not resume:
            asked += ["--dataset", str(QUESTIONS)]
        process = subprocess.Popen(
            command("search", *asked, "--output", "run", *options, stub=self.stub),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(self.temporary)},
            preexec_fn=heed_signals,
        )
        self._started.append(process)
        return process

    def close(self) -> None:
        """End what a test that failed has left running, or the next would be disturbed."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def ended(self, process: subprocess.Popen[str], timeout_s: float = 300) -> tuple[int, str]:
        """Exit code and standard error; nothing the search started may be left."""
        _, errors = process.communicate(timeout=timeout_s)
        assert "Traceback" not in errors, errors
        deadline = time.monotonic() + 5
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, f"processes are left: {left}"
        assert not list(self.folder.rglob("*.partial"))
        assert not (self.run / ".work").exists()
        assert not list(self.temporary.iterdir())
        return process.returncode, errors

    def go_on(self, *options: str) -> None:
        """Resume; the run must end whole, and lose no trial it had."""
        before = self.lines()
        code, errors = self.ended(self.start(*options, resume=True))
        assert code == 0, errors
        assert self.lines()[: len(before)] == before
        assert (self.run / "report.json").exists()

    def lines(self) -> list[bytes]:
        """The whole lines of the journal."""
        try:
            data = (self.run / "trials.jsonl").read_bytes()
        except OSError:
            return []
        return data[: data.rfind(b"\n") + 1].splitlines()

    def trials(self) -> list[dict]:
        return [json.loads(line) for line in self.lines()]

    def wait_for_trials(self, count: int) -> None:
        self.wait_for(lambda: len(self.lines()) >= count)

    def wait_for(self, happened: Callable[[], bool], timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.05)

    def processes(self) -> list[str]:
        """Command lines of processes that work in this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                here = os.readlink(entry / "cwd")
            except OSError:
                continue
            if str(self.folder) in command or here.startswith(str(self.folder)):
                found.append(command)
        return found


REAL = pytest.param(False, id="real", marks=(pytest.mark.model, pytest.mark.full))


@pytest.fixture(scope="module", params=[pytest.param(True, id="stub"), REAL])
def stub(request):
    """Whether searches run on the stub worker."""
    return request.param


@pytest.fixture(scope="module")
def searches(tmp_path_factory, stub):
    """Makes a folder for searches, and ends what still runs in those made before it."""
    made: list[Searches] = []

    def end() -> None:
        for one in made:
            one.close()

    def make() -> Searches:
        end()
        made.append(Searches(tmp_path_factory.mktemp("faults"), stub=stub))
        return made[-1]

    yield make
    end()
