"""Send requests to a worker and receive its replies: two pipes, one JSON object a line.

The orchestrator blocks while it waits, so that it takes no CPU time from the measurement.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autotune.shared.errors import shorten
from autotune.shared.records import FAILURE_KINDS, Failure, dumps
from autotune.store.wire import WireError, loads

MAX_REPLY_BYTES = 64 * 2**20
WATCH_INTERVAL_S = 0.25
"""Seconds between two calls of `watch` while `receive_all` waits."""


class WorkerFailed(Exception):
    """A request got no usable reply. `failure` says why; `log` is the log of a worker that was
    closed, otherwise empty."""

    def __init__(self, failure: Failure, log: str = "") -> None:
        super().__init__(f"{failure.kind}: {failure.detail}")
        self.failure = failure
        self.log = log


class Channel:
    """The orchestrator's ends of the two pipes to one worker; `close` closes both."""

    def __init__(
        self,
        requests: int,
        replies: int,
        *,
        explain_exit: Callable[[], Failure],
        end_worker: Callable[[], None],
    ) -> None:
        """`explain_exit` returns why a worker closed its ends of the pipes.

        `end_worker` is called after a timeout or a malformed reply: no later reply could be
        trusted.
        """
        self._requests, self._replies = requests, replies
        self._explain_exit, self._end_worker = explain_exit, end_worker
        self._request_id = 0  # of the latest request
        self._buffer = b""

    def request(self, op: str, arguments: Mapping[str, Any], *, timeout_s: float) -> Any:
        """Send a request and return the `ok` of its reply.

        Raises WorkerFailed. The worker has been ended, unless it reported the failure itself.
        """
        self.send(op, arguments)
        return self.receive(timeout_s=timeout_s)

    def send(self, op: str, arguments: Mapping[str, Any]) -> None:
        """Send a request without waiting; `receive` must follow. Raises WorkerFailed."""
        self._request_id += 1
        data = (dumps({"id": self._request_id, "op": op, "args": arguments}) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            raise WorkerFailed(self._explain_exit()) from None

    def receive(self, *, timeout_s: float, watch: Callable[[], None] | None = None) -> Any:
        """Wait for the reply to the latest `send`, and return its `ok`. Raises as `request`.

        `watch` is called every WATCH_INTERVAL_S seconds; an exception from `watch` ends the wait.
        """
        (reply,) = receive_all([self], timeout_s=timeout_s, watch=watch)
        return reply

    @property
    def descriptor(self) -> int:
        """The descriptor from which replies are read."""
        return self._replies

    @property
    def has_reply(self) -> bool:
        """Whether a whole reply was read and not yet taken."""
        return b"\n" in self._buffer

    def read(self) -> None:
        """Read what has arrived. Raises WorkerFailed if the worker has closed its end."""
        chunk = os.read(self._replies, 1 << 20)
        if not chunk:
            raise WorkerFailed(self._explain_exit())
        self._buffer += chunk
        if len(self._buffer) > MAX_REPLY_BYTES:
            raise self.end_as("protocol", f"the reply is longer than {MAX_REPLY_BYTES} bytes")

    def take(self) -> Any:
        """The `ok` of the reply that was read. Raises WorkerFailed."""
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply = loads(line)
        except WireError as error:
            raise self.end_as("protocol", str(error)[:500]) from error
        if not isinstance(reply, dict) or reply.get("id") != self._request_id:
            got = reply.get("id") if isinstance(reply, dict) else type(reply).__name__
            raise self.end_as("protocol", f"expected the reply to {self._request_id}, got {got!r}")
        if set(reply) == {"id", "ok"}:
            return reply["ok"]
        failure = reply.get("failure")
        if (
            set(reply) == {"id", "failure"}
            and isinstance(failure, dict)
            and failure.get("kind") in FAILURE_KINDS
            and isinstance(failure.get("detail"), str)
        ):
            raise WorkerFailed(Failure(kind=failure["kind"], detail=shorten(failure["detail"])))
        raise self.end_as("protocol", f"reply has keys {sorted(map(str, reply))}")

    def end_as(self, kind: str, detail: str) -> WorkerFailed:
        """End the worker, and return the exception to raise for it."""
        self._end_worker()
        return WorkerFailed(Failure(kind=kind, detail=detail))

    def close(self) -> None:
        """Close both descriptors. Repeatable."""
        for descriptor in (self._requests, self._replies):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._requests = self._replies = -1


def receive_all(
    channels: Sequence[Channel], *, timeout_s: float, watch: Callable[[], None] | None = None
) -> list[Any]:
    """Wait for the reply of every worker to its latest `send`, and return their `ok`s in order.

    The first worker that fails or closes its pipe ends the wait with its own failure, because the
    others may be waiting for it. Raises WorkerFailed. `watch` is as in `Channel.receive`.
    """
    replies: dict[Channel, Any] = {}
    deadline = time.monotonic() + timeout_s
    while True:
        for channel in channels:
            if channel not in replies and channel.has_reply:
                replies[channel] = channel.take()
        waiting = [channel for channel in channels if channel not in replies]
        if not waiting:
            return [replies[channel] for channel in channels]
        left = max(0.0, deadline - time.monotonic())
        wait = left if watch is None else min(left, WATCH_INTERVAL_S)
        ready = _readable(waiting, wait)
        for channel in ready:
            channel.read()
        if ready:
            continue
        if watch is None or wait == left:
            raise waiting[0].end_as("timeout", f"no answer in {timeout_s:g} s")
        watch()


def _readable(channels: Sequence[Channel], wait_s: float) -> list[Channel]:
    """The channels with data or a closed pipe, after at most `wait_s` seconds.

    Not `select`, which refuses descriptors from 1024 on: many instances have many pipes.
    """
    poll = select.poll()
    by_descriptor = {channel.descriptor: channel for channel in channels}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    return [by_descriptor[found] for found, _ in poll.poll(math.ceil(1000 * wait_s))]
