"""Asking a worker: requests and replies over two descriptors, one JSON object a line.

The orchestrator blocks while it waits, so that it takes nothing from what is measured.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable, Mapping
from typing import Any

from autotune.shared.records import FAILURE_KINDS, Failure, dumps
from autotune.store.wire import WireError, loads

MAX_REPLY_BYTES = 64 * 2**20
WATCH_S = 0.25
"""How often whoever waits for a reply looks at the worker meanwhile, where it looks at all."""


class WorkerFailed(Exception):
    """A request that got no usable answer, and why; `log` is what the worker had written, where
    it is gone."""

    def __init__(self, failure: Failure, log: str = "") -> None:
        super().__init__(f"{failure.kind}: {failure.detail}")
        self.failure = failure
        self.log = log


class Channel:
    """Both ends of a conversation with one worker; owns its descriptors."""

    def __init__(
        self, requests: int, replies: int, *, gone: Callable[[], Failure], end: Callable[[], None]
    ) -> None:
        """`gone` says why a worker closed its ends; `end` is called where no further answer of it
        could be believed."""
        self._requests, self._replies = requests, replies
        self._gone, self._end = gone, end
        self._asked = 0  # the number of the last request
        self._buffer = b""

    def request(self, op: str, arguments: Mapping[str, Any], *, timeout_s: float) -> Any:
        """The `ok` of the reply. Raises WorkerFailed; after one that is not the worker's own
        typed answer it has been ended."""
        self.send(op, arguments)
        return self.receive(timeout_s=timeout_s)

    def send(self, op: str, arguments: Mapping[str, Any]) -> None:
        """Ask without waiting; one `receive` must follow before the next. Raises WorkerFailed."""
        self._asked += 1
        data = (dumps({"id": self._asked, "op": op, "args": arguments}) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            raise WorkerFailed(self._gone()) from None

    def receive(self, *, timeout_s: float, watch: Callable[[], None] | None = None) -> Any:
        """The `ok` of the reply to the last `send`; raises as `request`.

        While it waits it calls `watch` every WATCH_S; what that raises ends the waiting.
        """
        try:
            reply = loads(self._line(timeout_s, watch))
        except WireError as error:
            raise self._unusable("protocol", str(error)[:500]) from error
        if not isinstance(reply, dict) or reply.get("id") != self._asked:
            got = reply.get("id") if isinstance(reply, dict) else type(reply).__name__
            raise self._unusable("protocol", f"expected the reply to {self._asked}, got {got!r}")
        if set(reply) == {"id", "ok"}:
            return reply["ok"]
        failure = reply.get("failure")
        if (
            set(reply) == {"id", "failure"}
            and isinstance(failure, dict)
            and failure.get("kind") in FAILURE_KINDS
            and isinstance(failure.get("detail"), str)
        ):
            raise WorkerFailed(Failure(kind=failure["kind"], detail=failure["detail"]))
        raise self._unusable("protocol", f"reply has keys {sorted(map(str, reply))}")

    def _line(self, timeout_s: float, watch: Callable[[], None] | None) -> bytes:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            wait = left if watch is None else min(left, WATCH_S)
            ready, _, _ = select.select([self._replies], [], [], wait)
            if not ready and wait < left and watch is not None:
                watch()
                continue
            if not ready:
                raise self._unusable("timeout", f"no answer in {timeout_s:g} s")
            chunk = os.read(self._replies, 1 << 20)
            if not chunk:
                raise WorkerFailed(self._gone())
            self._buffer += chunk
            if len(self._buffer) > MAX_REPLY_BYTES:
                raise self._unusable("protocol", f"a reply of over {MAX_REPLY_BYTES} bytes")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _unusable(self, kind: str, detail: str) -> WorkerFailed:
        self._end()
        return WorkerFailed(Failure(kind=kind, detail=detail))

    def close(self) -> None:
        """Close both descriptors. Repeatable."""
        for descriptor in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._requests = self._replies = -1
