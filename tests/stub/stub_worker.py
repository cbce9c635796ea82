"""The worker program with a stub in the place of torch and transformers.

Its processes, requests, measurements and files are the real worker's. Only the model is made up:
a word's token id is its length, and an engine answers with the longest word. So a search of it
needs no import of torch, and a fault of disks, signals or workers costs seconds to try.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).parent
WORKER = HERE.parents[1] / "autotune" / "worker" / "__main__.py"
POSITIONS = 512
WORD = re.compile(r"\S+")


def load_worker() -> ModuleType:
    """The real worker's program, which makes `autotune` importable from this tree."""
    spec = importlib.util.spec_from_file_location("worker_program", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module._make_package_importable()
    return module


program = load_worker()
sys.path[:0] = [str(HERE), str(HERE.parent / "faults")]

import numpy as np  # noqa: E402

from autotune.shared.errors import TrialFailure  # noqa: E402
from autotune.shared.records import ModelFacts, StackFacts  # noqa: E402
from autotune.worker import engines  # noqa: E402
from autotune.worker.batches import FEATURES_FILE, META_FILE  # noqa: E402
from autotune.worker.engines.base import Engine, Prepared  # noqa: E402
from autotune.worker.operations import Operations  # noqa: E402

SPEEDS = {"eager": 1.0, "jit": 2.0, "openvino": 4.0}
"""Mode -> how many times as fast as eager; bf16 is twice as fast as fp32."""
TOKEN_S = 2e-5
"""Seconds that eager float32 takes for a padded token."""


class StubEngine(Engine):
    """Takes a time by mode and precision, and prefers the longest word."""

    @classmethod
    def unsupported(cls, precision, environment):
        return None

    def prepare(self, material):
        speed = SPEEDS[self.options["mode"]] * (2 if self.options["precision"] == "bf16" else 1)
        outputs = material.source.outputs

        def call(batch):
            time.sleep(TOKEN_S / speed * batch["input_ids"].size)
            return [answer(batch["input_ids"], name, axes) for name, axes in outputs.items()]

        return Prepared(
            call=call,
            effective={
                "threads": material.threads,
                "interop_threads": 1,
                "flush_denormals": False,
            },
        )


LABELS = 2


def answer(ids, name, axes):
    """Logits: of a token its word's length; of a sequence, which of two labels it has."""
    if axes == "batch":
        even = ids.sum(axis=1) % LABELS
        return np.stack([even == 0, even == 1], axis=1).astype(np.float32)
    if name == "logits":
        return np.stack([ids % LABELS == 0, ids % LABELS == 1], axis=2).astype(np.float32)
    return ids.astype(np.float32)


def probe(self, *, instruction_sets, engine_files):
    return StackFacts(
        python=sys.executable,
        python_version="3",
        versions={"torch": "0.0.0", "transformers": "4.52.4"},
        ipex="a stub has none",
        modes={mode: dict.fromkeys(("fp32", "bf16")) for mode in SPEEDS},
    )


def digest(self, *, source):
    return hashlib.sha256((Path(source["path"]) / "config.json").read_bytes()).hexdigest()


def encode(self, *, source, sets, max_seq_length, doc_stride, words):
    if max_seq_length > POSITIONS:
        raise TrialFailure("unsupported", f"max_seq_length must be at most {POSITIONS}")
    length = max_seq_length or POSITIONS
    for one in sets:
        write_features(one["rows_file"], Path(one["folder"]), length, doc_stride, words)
    return ModelFacts(
        model_type="stub",
        architecture="Stub",
        parameters=1000,
        attention="sdpa",
        attentions=("sdpa", "eager"),
        max_positions=POSITIONS,
        digest=digest(self, source=source),
        labels=("O", "B-x") if words else ("even", "odd"),
        work=(0.0, 1.0, 0.0),
    )


def write_features(rows_file, folder, max_seq_length, doc_stride, words):
    rows = json.loads(Path(rows_file).read_text(encoding="utf-8"))
    ids, offsets, places = [], [], []
    for number, text in enumerate(rows["text"]):
        parts = text if words else WORD.findall(text)
        row = [len(part) for part in parts][:max_seq_length]
        places.append(list(range(len(row))))
        where = [(-1, -1)] * len(row)
        if rows["text_pair"] is not None:
            found = list(WORD.finditer(rows["text_pair"][number]))[: max_seq_length - len(row)]
            row += [len(one[0]) for one in found]
            where += [one.span() for one in found]
        ids.append(row)
        offsets += where
    arrays = {
        "input_ids": np.concatenate([np.asarray(row, np.int32) for row in ids]),
        "lengths": np.asarray([len(row) for row in ids], np.int32),
        "example": np.arange(len(ids), dtype=np.int32),
    }
    if doc_stride is not None:
        arrays["offsets"] = np.asarray(offsets, np.int32)
    if words:
        arrays["words"] = np.asarray([w for row in places for w in row], np.int32)
    np.savez(folder / FEATURES_FILE, **arrays)
    meta = {
        "inputs": ["input_ids"],
        "pad": {"input_ids": 0},
        "padding_side": "right",
        "max_seq_length": max_seq_length,
        "examples": len(ids),
    }
    (folder / META_FILE).write_text(json.dumps(meta), encoding="utf-8")


def peak(self, *, threads, precisions):
    return dict.fromkeys(precisions, 1e12)


def install() -> None:
    """Put the stub where torch would be used."""
    sys.modules["stub_worker"] = sys.modules[__name__]
    engines.ENGINES = {
        mode: replace(
            engines.ENGINES[mode], implementation="stub_worker:StubEngine", own_threads=True
        )
        for mode in SPEEDS
    }
    Operations.probe, Operations.encode = probe, encode
    Operations.digest, Operations.peak = digest, peak
    if os.path.exists(os.path.join(sys.prefix, "faulty")):
        from autotune_fault import change

        change(Operations, program)


if __name__ == "__main__":
    install()
    sys.exit(program.main(sys.argv[1:]))
