"""What a search shows: drawn on a terminal, plain lines, JSON, or the result only."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from commands import STUB, command
from fakes import measurement, surroundings

from autotune.cli.common import printable, say
from autotune.cli.display import Drawn, Events, Lines, Quiet, chosen
from autotune.cli.result import show_result, show_table
from autotune.search.objective import objective_named
from autotune.search.progress import Progress
from autotune.shared.records import Accuracy, Failure, Screen, Trial
from autotune.shared.stats import median_interval
from autotune.space import baseline, complete

OBJECTIVE = objective_named("throughput")
BASE, BETTER = baseline(surroundings()), complete(surroundings(), {"mode": "jit"})
ACCURACY = Accuracy(
    metrics={"f1": 90.0}, relative_drop=0.0, agreement=1.0, max_abs_logit_difference=0, allowed=True
)
SEARCH = ("search", "--model", "demo", "--max-samples", "4", "--max-seq-length", "64")
QUESTIONS = ("--dataset", str(STUB / "questions.json"))
SMALL = (*SEARCH, *QUESTIONS, "--doc-stride", "16", "--set", "mode=eager", "--output", "run")


def trial(number, config, pass_s=None, failure=None):
    return Trial(
        number=number,
        origin="search" if number else "baseline",
        config=config,
        started="2026-01-01T00:00:00+00:00",
        duration_s=2.0,
        measurement=measurement(pass_s) if pass_s else None,
        accuracy=ACCURACY if pass_s else None,
        failure=failure,
    )


FIRST, SECOND = trial(0, BASE, 10.0), trial(1, BETTER, 2.0)
BROKEN = trial(2, BETTER, failure=Failure(kind="crash", detail="it\nfell \x1b[2Jover"))


def progress(of, best):
    return Progress(
        phase="search",
        trial=of,
        done=of.number + 1,
        trials=5,
        elapsed_s=65.0,
        remaining_s=10.0,
        baseline=FIRST,
        best=best,
        gain=median_interval([5.0]),
    )


def shown(display):
    """The view as plain text."""
    from rich.console import Console

    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(display.view())
    return console.export_text()


def tell(display):
    for number, (of, best) in enumerate(((FIRST, FIRST), (SECOND, SECOND), (BROKEN, SECOND))):
        display.started(of.config, of.origin, number)
        display.finished(progress(of, best))


def test_the_view_says_where_the_search_is_and_why_trials_failed():
    display = Drawn(OBJECTIVE)
    assert shown(display).strip() == "0:00"
    tell(display)
    display.started(BASE, "search", 3)
    words = shown(display)
    assert "search  1:05, 0:10 left" in words
    assert "3 tried: 2 measured, 1 crash" in words
    assert "5.00x  5.0/s f1 90.00" in words
    assert "1.0/s f1 90.00" in words
    assert "crash: it fell" in words
    assert "now  0:00  eager fp32" in words
    assert "\x1b" not in words
    display.announce("running the launch script once")
    assert "running the launch script once" in shown(display)


def test_lines_say_the_same_without_a_terminal(capsys):
    tell(Lines(OBJECTIVE))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith("measuring the baseline: eager fp32")
    assert lines[1].startswith("[search 1/5, 1:05, 0:10 left] eager fp32")
    assert lines[2].endswith("5.0/s f1 90.00 | best 5.00x")
    assert "FAILED crash: it fell" in lines[3]
    assert "\x1b" not in err


def test_events_are_lines_of_json(capsys, tmp_path):
    display = Events(OBJECTIVE)
    tell(display)
    display.result({"verdict": "fast"}, tmp_path)
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [one["event"] for one in found] == [*["started", "trial"] * 3, "finished"]
    assert found[3]["value"] == pytest.approx(5.0)
    assert found[3]["best"]["speedup"] == pytest.approx(5.0)
    assert found[5]["failure"]["kind"] == "crash"
    assert found[6] == {
        "event": "finished",
        "folder": str(tmp_path),
        "report": {"verdict": "fast"},
    }


def test_quiet_shows_nothing_before_the_result(capsys):
    tell(Quiet(OBJECTIVE))
    assert capsys.readouterr() == ("", "")


def test_the_display_is_chosen_by_what_was_asked_and_by_the_terminal(monkeypatch):
    assert type(chosen(OBJECTIVE, as_json=True, quiet=False)) is Events
    assert type(chosen(OBJECTIVE, as_json=False, quiet=True)) is Quiet
    assert type(chosen(OBJECTIVE, as_json=False, quiet=False)) is Lines
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert type(chosen(OBJECTIVE, as_json=False, quiet=False)) is Drawn
    monkeypatch.setenv("TERM", "dumb")
    assert type(chosen(OBJECTIVE, as_json=False, quiet=False)) is Lines


def test_what_cannot_be_seen_is_not_printed(capsys, monkeypatch):
    assert printable("a\x1b[2J\u202eb\tc\n") == "a\N{REPLACEMENT CHARACTER}[2J\ufffdb\tc\n"

    def broken(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("click.echo", broken)
    say("nobody reads this")


def test_a_table_of_the_result_holds_nothing_that_moves_the_cursor(capsys):
    show_table("runs\x1b[2J", [["path\x1b]0;owned\x07", "[bold]speed[/bold]"]])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[bold]speed[/bold]" in out


class OnTerminal:
    """A search whose standard error is a terminal."""

    def __init__(self, folder, *arguments):
        self._screen, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command(*arguments, stub=True),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(theirs)
        self.written = ""

    def read(self, until, timeout_s=120.0):
        """Until the screen was shown `until`, or the program ended."""
        deadline = time.monotonic() + timeout_s
        while until not in self.written and time.monotonic() < deadline:
            if not select.select([self._screen], [], [], 0.5)[0]:
                continue
            try:
                self.written += os.read(self._screen, 65536).decode(errors="replace")
            except OSError:  # nobody has it open any more
                return

    def end(self):
        """Exit code and standard output."""
        self.read("\0")
        out = self.process.communicate(timeout=120)[0].decode()
        os.close(self._screen)
        return self.process.returncode, out


def test_a_terminal_is_drawn_on_and_left_clean(tmp_path):
    search = OnTerminal(tmp_path, *SMALL, "--trials", "2", "--time-budget", "60s")
    search.read("best")
    code, out = search.end()
    assert code == 0, search.written
    assert " tried: " in search.written
    assert "baseline" in out
    assert "\x1b[?25h" in search.written  # the cursor is shown again
    assert "\x1b" not in out


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_a_search_with_what_it_has(tmp_path, sent):
    process = subprocess.Popen(
        command(*SMALL, "--time-budget", "10m", stub=True),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),  # make may have been told to ignore
    )
    trials = tmp_path / "run" / "trials.jsonl"
    for _ in range(600):
        if trials.exists() and len(trials.read_text().splitlines()) >= 2:
            break
        time.sleep(0.2)
    process.send_signal(sent)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "interrupted: writing the report" in err
    assert "autotune search --resume --output run" in out
    assert json.loads((tmp_path / "run" / "report.json").read_text())["interrupted"]
    assert not (tmp_path / "run" / ".work").exists()


EXAMPLE = Path(__file__).parents[2] / "reports" / "example" / "report.json"


def shown_result(folder, monkeypatch, encoding):
    """The last line that `show_result` writes to a standard output of this encoding."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding, "backslashreplace"))
    show_result(json.loads(EXAMPLE.read_text()), folder)
    return raw.getvalue().splitlines()[-1]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize(
    "name", ["run", "caf\u00e9 au lait", "it's", "new\nline", "\x1b[31m", "x" * 120, "\udcff"]
)
def test_the_command_of_the_result_can_be_pasted(tmp_path, monkeypatch, name, encoding):
    run = tmp_path / name
    run.mkdir()
    (run / "launch.sh").write_text("echo launched\n")
    line = shown_result(run, monkeypatch, encoding)
    pasted = line.partition(b"Run it: ")[2]
    done = subprocess.run([b"bash", b"-c", pasted], capture_output=True, check=False)
    assert done.stdout == b"launched\n", line


SCREENED = trial(3, BETTER, failure=Failure(kind="slow", detail="screened out: by 6 batches"))
SCREENED = replace(
    SCREENED, screen=Screen(batches=(0,), batch_s=(1.0,), pass_s=5.0, phases_s={}, settled=True)
)


def test_a_screened_configuration_is_no_failure(capsys):
    """It is only slower, so its line says why and nothing is called FAILED."""
    Lines(OBJECTIVE).finished(progress(SCREENED, SECOND))
    line = capsys.readouterr().err
    assert ": screened out: by 6 batches" in line
    assert "FAILED" not in line
    assert "slow:" not in line
    display = Drawn(OBJECTIVE)
    display.finished(progress(SCREENED, SECOND))
    assert "screened out: by 6 batches" in shown(display)
