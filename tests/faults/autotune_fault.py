"""Makes the real worker misbehave: imported by the faulty stack's interpreter as it starts.

Which fault depends on the batch size of the point that is measured, its place in FAULTS.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from dataclasses import replace

FAULTS = (
    *("exit", "segfault", "killed", "hang", "closed", "garbage"),
    *("other", "nan", "shape", "wrong", "flood", "child"),
)
SESSION = "autotune.worker.operations"


class Hook(importlib.abc.MetaPathFinder):
    """Changes the worker's session once it has been imported."""

    def find_spec(self, name, path, target=None):
        if name != SESSION:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change(module.Operations, sys.modules["__main__"])

        spec.loader.exec_module = exec_module
        return spec


def change(session, main):
    import numpy as np

    opened, measured, answered = session.open, session.measure, main.answer
    now = {"fault": ""}

    def disturbed(outputs):
        if now["fault"] == "nan":
            return [output * np.float32("nan") for output in outputs]
        if now["fault"] == "shape":
            return [output[:, :-1] for output in outputs]
        if now["fault"] == "wrong":  # goes with the right logits in all but the answer
            outputs = [output.copy() for output in outputs]
            for output in outputs:
                output[np.arange(len(output)), output.argmax(axis=1)] = output.min(axis=1)
        return outputs

    def open_disturbed(self, **arguments):
        reply = opened(self, **arguments)
        call = self._opened.prepared.call
        prepared = replace(self._opened.prepared, call=lambda batch: disturbed(call(batch)))
        self._opened = replace(self._opened, prepared=prepared)
        return reply

    def measure_faulty(self, **arguments):
        fault = now["fault"] = FAULTS[arguments["point"]["batch_size"] - 1]
        if fault == "exit":
            os._exit(3)
        if fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            time.sleep(3600)
        if fault == "flood":
            for _ in range(200):
                sys.stderr.write("x" * 100_000 + "\n")
        if fault == "closed":
            os.closerange(3, 1024)
            time.sleep(3600)
        if fault == "child" and os.fork() == 0:
            os.closerange(3, 1024)  # the next point may be `closed`, in the same session
            time.sleep(3600)
            os._exit(0)
        return measured(self, **arguments)

    def answer_faulty(handlers, request):
        reply = answered(handlers, request)
        if request["op"] == "measure" and now["fault"] == "other":  # an earlier request's
            return {**reply, "id": reply["id"] - 1}
        if request["op"] == "measure" and now["fault"] == "garbage":
            return {"nonsense": "\x00\x1b[2J", "ok": []}
        return reply

    session.open, session.measure, main.answer = open_disturbed, measure_faulty, answer_faulty


sys.meta_path.insert(0, Hook())
