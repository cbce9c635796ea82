"""Worker process: requests in, replies out, one JSON object a line.

    python -P .../autotune/worker/__main__.py --requests IN --replies OUT --workdir DIR
        [--cpus 0,1] [--together DIR --instance 0 --instances 2] [--then DIR]

With `--forks SOCKET --preload MODULES` instead it is a process that forks such workers, see
`autotune.worker.parent`.

IN and OUT are a file or the number of an inherited file descriptor. A request is
`{"id": 1, "op": "open", "args": {...}}`; its reply is `{"id": 1, "ok": {...}}` or
`{"id": 1, "failure": {"kind": ..., "detail": ...}}`. Standard output and error are for
libraries and people, and are never parsed. With `--then` it goes on with the pipes `requests` and
`replies` in that folder. The process ends when the requests end, or when its parent does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any

Handlers = dict[str, Callable[..., Any]]


def _make_package_importable() -> None:
    """Import `autotune` from this file's own tree, putting nothing else on `sys.path`.

    The interpreter may be a foreign one: adding our parent folder (often a site-packages)
    to its path would let our versions of libraries shadow its own.
    """
    import importlib.util

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = importlib.util.spec_from_file_location(
        "autotune", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["autotune"] = module
    spec.loader.exec_module(module)


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the process that started it ends."""
    import ctypes
    import signal

    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def _pin(cpus: str) -> str | None:
    """Restrict this process to `cpus`, before any library counts them; why not, in words."""
    try:
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    except OSError as error:
        return f"the kernel refuses the CPUs {cpus}: {error.strerror}"
    return None


def _open(where: str, mode: str) -> IO[str]:
    if where.isdigit():
        os.set_inheritable(int(where), False)
        return os.fdopen(int(where), mode, encoding="utf-8")
    return open(where, mode, encoding="utf-8")


def _requests(stream: IO[str]) -> Iterator[dict[str, Any]]:
    for line in stream:
        if line.strip():
            yield json.loads(line)


def answer(handlers: Handlers, request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request. Every exception becomes a failure with its words."""
    from autotune.shared.errors import TrialFailure
    from autotune.shared.records import to_jsonable

    reply: dict[str, Any] = {"id": request["id"]}
    try:
        reply["ok"] = to_jsonable(handlers[request["op"]](**request["args"]))
    except TrialFailure as failure:
        traceback.print_exc()
        reply["failure"] = {"kind": failure.kind, "detail": failure.detail}
    except MemoryError as error:
        traceback.print_exc()
        reply["failure"] = {"kind": "out-of-memory", "detail": str(error) or "MemoryError"}
    except Exception as error:
        traceback.print_exc()
        kind = "out-of-memory" if "not enough memory" in str(error) else "crash"
        reply["failure"] = {"kind": kind, "detail": f"{type(error).__name__}: {error}"}
    return reply


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="autotune-worker", description=__doc__)
    parser.add_argument("--requests", help="file or descriptor to read")
    parser.add_argument("--replies", help="file or descriptor to write")
    parser.add_argument("--then", help="folder of two pipes to go on with")
    parser.add_argument("--workdir", help="folder for what replies refer to")
    parser.add_argument("--cpus", help="CPUs this process may use, e.g. 0,1")
    parser.add_argument("--parent", type=int, help="process id to die with")
    parser.add_argument("--together", help="folder where instances side by side meet")
    parser.add_argument("--instance", type=int, default=0, help="which of them this is")
    parser.add_argument("--instances", type=int, default=1, help="how many there are")
    parser.add_argument("--forks", type=int, help="socket on which to be asked for workers")
    parser.add_argument("--preload", default="", help="modules to import before forking")
    return parser


def main(argv: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.parent:
        _die_with_parent(options.parent)
    refused = _pin(options.cpus) if options.cpus else None

    forked = options.forks is not None
    if forked:
        from autotune.worker.parent import preload, serve

        here = os.getpid()
        preload([module for module in options.preload.split(",") if module])
        options = parser.parse_args(serve(options.forks))
        _die_with_parent(here)
    if not (options.requests and options.replies and options.workdir):
        parser.error("--requests, --replies and --workdir are needed")

    streams = _open(options.requests, "r"), _open(options.replies, "w")
    from autotune.worker.group import Group
    from autotune.worker.operations import Operations

    group = Group(folder=options.together, index=options.instance, count=options.instances)
    handlers = Operations(workdir=options.workdir, group=group, forked=forked).handlers()
    failed = _converse(handlers, refused, *streams)
    if options.then:
        then = (os.path.join(options.then, name) for name in ("requests", "replies"))
        streams = _open(next(then), "r"), _open(next(then), "w")
        failed = _converse(handlers, refused, *streams) or failed
    return 1 if failed else 0


def _converse(handlers: Handlers, refused: str | None, asked: IO[str], replies: IO[str]) -> bool:
    """Answer until the requests end, or with `refused` as the reason why not; whether any
    failed."""
    failed = False
    for request in _requests(asked):
        if refused is not None:
            failure = {"kind": "unsupported", "detail": refused}
            reply: dict[str, Any] = {"id": request["id"], "failure": failure}
        else:
            reply = answer(handlers, request)
        failed = failed or "failure" in reply
        replies.write(json.dumps(reply, allow_nan=False, separators=(",", ":")) + "\n")
        replies.flush()
    return failed


if __name__ == "__main__":
    if not __package__:
        _make_package_importable()
    sys.exit(main(sys.argv[1:]))
