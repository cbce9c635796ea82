"""Feeds damaged and hostile input to everything that reads input, and counts the outcomes.

    python bench/fuzz.py [--inputs 100000] [--seed 0] [--only spaces,replies]

Readers: search spaces (YAML), the datasets of each task (JSON, JSON lines, CSV), workers'
replies and outputs, lines of trials.jsonl. An input is random bytes, or a valid input with pieces
replaced, cut, repeated or swapped for text that tends to break readers. A reader may raise only its
own typed error. Any other exception is printed with its input, and the exit code is 1. Prints how
many inputs each reader accepted and how many it refused.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autotune import demo
from autotune.driver.arrays import read_arrays
from autotune.shared.errors import DatasetError, SpaceError
from autotune.shared.records import Measurement, ModelFacts, Screen, ServedRequests, StackFacts
from autotune.space import load_space, parse_overrides
from autotune.store.wire import WireError, loads, parse, parse_trial
from autotune.tasks import task_named

ROOT = Path(__file__).parent.parent
REPLIES = (Measurement, Screen, ServedRequests, StackFacts, ModelFacts)
TOKENS = (
    *(b"", b"\0", b"\n", b"\r\n", b"\t", b" ", b'"', b"'", b",", b":", b"{", b"}", b"[", b"]"),
    *(b"null", b"true", b"NaN", b"Infinity", b"-0", b"1e999", b"9" * 5000, b"-1", b"1.5"),
    *(b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", "\u202e\u2066".encode()),
    *(b"&a [*a, *a]", b"*a", b"<<: *a", b"!!python/object/apply:os.system ['true']", b"---\n"),
    *(b"[" * 3000, b'{"a":' * 3000, b"a" * 200_000, b"$(true)", b"</script>", b"../../etc/passwd"),
    *(b"low: 1, high: 999999999999", b"version: 2", b"? ", b"| ", b"%YAML 9.9\n"),
)

SPACE = (ROOT / "search_spaces" / "qa.yaml").read_bytes()
QA = json.dumps(json.loads(demo.DATASET.read_text())["data"][0]["paragraphs"][0]).encode()
FLAT = b'{"id":"1","question":"q?","context":"a b","answers":{"text":["a"],"answer_start":[0]}}\n'
TEXTS = b'{"sentence": "good", "label": "LABEL_1"}\n{"sentence": "bad", "label": 0}\n'
TABLE = b'text,label\n"good, really",1\nbad,0\n'
IMAGES = b"image,label\ndata.csv,LABEL_1\ndata.csv,0\n"
WORDS = b'{"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]}\n'


def measurement() -> bytes:
    one = {"batch_s": [0.1, 0.2], "instance": 0, "share": 1.0}
    reply = {
        "examples": 2,
        "features": 2,
        "tokens": 9,
        "padded_tokens": 12,
        "batch_features": [1, 1],
        "passes": [one, one],
        "phases_s": {"import": 0.1},
        "peak_rss_bytes": 5,
        "effective": {"threads": 1},
        "outputs_digest": "0",
        "outputs_repeatable": True,
    }
    return json.dumps(reply).encode()


def trial() -> bytes:
    content = {
        "number": 1,
        "origin": "search",
        "config": {"mode": "eager", "threads": 1},
        "started": "2026-01-01T00:00:00+00:00",
        "duration_s": 1.0,
        "measurement": json.loads(measurement()),
        "failure": {"kind": "crash", "detail": "gone"},
    }
    return json.dumps(content).encode()


def outputs() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, logits=np.zeros((3, 2), np.float32))
    return buffer.getvalue()


def read_space(data: bytes, folder: Path) -> None:
    path = folder / "space.yaml"
    path.write_bytes(data)
    load_space(path)


def read_override(data: bytes, folder: Path) -> None:
    parse_overrides(data.decode(errors="replace").splitlines())


def dataset_reader(task: str, suffix: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / f"data{suffix}"
        path.write_bytes(data)
        loaded = task_named(task).load(str(path), None)
        known = loaded.task.for_model(("LABEL_0", "LABEL_1", "O", "B-ORG"))
        rows = known.with_model_labels(loaded.rows)
        known.for_worker(rows)
        known.write(rows, folder / "written.json")

    return read


def read_reply(data: bytes, folder: Path) -> None:
    value = loads(data)
    for kind in REPLIES:
        try:
            parse(kind, value)
        except WireError:
            continue


def read_trial(data: bytes, folder: Path) -> None:
    parse_trial(data)


def read_outputs(data: bytes, folder: Path) -> None:
    path = folder / "outputs.npz"
    path.write_bytes(data)
    read_arrays(path)


READERS: dict[str, tuple[Callable[[bytes, Path], None], type[Exception], tuple[bytes, ...]]] = {
    "spaces": (read_space, SpaceError, (SPACE, SPACE[:600])),
    "overrides": (read_override, SpaceError, (b"mode=eager,jit\nthreads=2\nhuge_pages=true",)),
    "qa json": (dataset_reader("qa", ".json"), DatasetError, (QA, FLAT, b"[" + FLAT + b"]")),
    "text json": (dataset_reader("text-classification", ".jsonl"), DatasetError, (TEXTS,)),
    "text csv": (dataset_reader("text-classification", ".csv"), DatasetError, (TABLE,)),
    "token json": (dataset_reader("token-classification", ".jsonl"), DatasetError, (WORDS,)),
    "embedding csv": (dataset_reader("feature-extraction", ".csv"), DatasetError, (TABLE,)),
    "image csv": (dataset_reader("image-classification", ".csv"), DatasetError, (IMAGES,)),
    "replies": (read_reply, WireError, (measurement(),)),
    "trials": (read_trial, WireError, (trial(),)),
    "outputs": (read_outputs, WireError, (outputs(),)),
}


def damaged(rng: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """One of `seeds` with some pieces changed; in 5% of the calls random bytes instead."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(64))
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 1, 4, 16, 64)))
        kind = rng.randrange(6)
        if kind == 0:
            piece = rng.choice(TOKENS)
        elif kind == 1:
            piece = rng.randbytes(end - start)
        elif kind == 2:
            piece = data[start:end] * rng.choice((2, 3, 50))
        elif kind == 3:
            piece = b""
        elif kind == 4:  # a piece from elsewhere in the input
            other = rng.randrange(len(data) + 1)
            piece = data[other : other + 16]
        else:
            return data[:start]
        data = data[:start] + piece + data[end:]
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(READERS))
    options = parser.parse_args()
    names = options.only.split(",")
    total, crashes = 0, 0
    for name in names:
        read, typed, seeds = READERS[name]
        rng = random.Random(f"{options.seed}-{name}")
        counts: collections.Counter[str] = collections.Counter()
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="autotune-fuzz-") as folder:
            for _ in range(options.inputs // len(names)):
                data = damaged(rng, seeds)
                try:
                    read(data, Path(folder))
                    counts["taken"] += 1
                except typed:
                    counts["refused"] += 1
                except Exception:
                    counts["CRASHED"] += 1
                    if counts["CRASHED"] <= 3:
                        print(f"{name}: {data[:300]!r}\n{traceback.format_exc()}")
        total, crashes = total + sum(counts.values()), crashes + counts["CRASHED"]
        outcomes = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        print(f"{name:14} {outcomes}; {time.monotonic() - start:.0f} s", flush=True)
    print(f"{total} inputs, {crashes} crashes")
    sys.exit(1 if crashes else 0)


if __name__ == "__main__":
    main()
