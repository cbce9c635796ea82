"""What `autotune search --json` printed."""

from __future__ import annotations

import json


def events(done):
    """Of a finished command, every line."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def reported(done):
    """The report, which comes last."""
    last = events(done)[-1]
    assert last["event"] == "finished"
    return last["report"]
