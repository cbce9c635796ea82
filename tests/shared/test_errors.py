"""A failure's text is short, whatever a library writes."""

from __future__ import annotations

import json
import os

import pytest

from autotune.driver.channel import Channel, WorkerFailed
from autotune.shared.errors import MAX_DETAIL, TrialFailure, shorten
from autotune.shared.records import Failure
from autotune.worker.__main__ import answer

GRAPH = "graph(%input : Tensor):\n  %1 = aten::linear(%input)\n" * 1500
"""As long as what torch's tracer wrote: 78,000 characters."""


def is_short(text):
    return len(text) <= 400 and "\n" not in text


def test_a_failure_is_one_line_of_at_most_400_characters():
    assert len(GRAPH) > 70_000
    assert MAX_DETAIL == 400
    failure = TrialFailure("fallback", f"torch.jit.trace failed: {GRAPH}")
    assert is_short(failure.detail)
    assert failure.detail.startswith("torch.jit.trace failed: graph(%input")
    assert failure.detail.endswith("\N{HORIZONTAL ELLIPSIS}")
    assert shorten("short") == "short"
    assert shorten("x" * 400) == "x" * 400


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrialFailure("fallback", GRAPH), "fallback"),
        (RuntimeError(GRAPH), "crash"),
        (MemoryError(GRAPH), "out-of-memory"),
    ],
)
def test_a_worker_replies_with_a_short_detail(error, kind, capsys):
    def fail():
        raise error

    failure = answer({"open": fail}, {"id": 1, "op": "open", "args": {}})["failure"]
    assert failure["kind"] == kind
    assert is_short(failure["detail"])


def test_the_detail_of_any_worker_is_cut_before_it_is_stored():
    """The worker of another stack may be of an older version."""
    requests_read, requests = os.pipe()
    replies, replies_write = os.pipe()
    channel = Channel(
        requests,
        replies,
        explain_exit=lambda: Failure(kind="crash", detail="gone"),
        end_worker=lambda: None,
    )
    failure = {"kind": "fallback", "detail": GRAPH[:30_000]}
    os.write(replies_write, (json.dumps({"id": 1, "failure": failure}) + "\n").encode())
    with pytest.raises(WorkerFailed) as failed:
        channel.request("open", {}, timeout_s=5.0)
    assert is_short(failed.value.failure.detail)
    channel.close()
    for descriptor in (requests_read, replies_write):
        os.close(descriptor)
