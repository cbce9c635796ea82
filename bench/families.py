"""Which engines run which architectures? Writes the table of docs/engines.md.

    python bench/families.py [--write docs/engines.md] [FAMILY ...]

Each architecture is a small random text classifier (tests/families.py). A cell is `ok` if the
engine prepares it, passes its own comparison with the model it was made from, and answers rows
alone and in padded batches as eager float32 does, within the tolerance of the precision. Other
cells are the kind of failure, with the reasons below the table. An asterisk marks an architecture
whose answers change with padding in transformers itself: the gate judges which padding is right.
Each architecture runs in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PADDED = "padded"
"""The cell that says whether eager float32 answers padded rows as it answers them alone."""
HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
ENGINES: dict[str, dict[str, Any]] = {
    "eager fp32": {"mode": "eager", "precision": "fp32"},
    "eager bf16": {"mode": "eager", "precision": "bf16", "bf16_method": "autocast"},
    "eager int8": {"mode": "eager", "precision": "int8_dynamic", "int8_weights": "per_channel"},
    "jit fp32": {"mode": "jit", "precision": "fp32"},
    "jit bf16": {"mode": "jit", "precision": "bf16", "bf16_method": "autocast"},
    "jit int8": {"mode": "jit", "precision": "int8_dynamic", "int8_weights": "per_channel"},
    "inductor fp32": {"mode": "inductor", "precision": "fp32", "dynamic_shapes": True},
    "inductor bf16": {
        "mode": "inductor",
        "precision": "bf16",
        "bf16_method": "autocast",
        "dynamic_shapes": True,
    },
    "inductor int8": {"mode": "inductor", "precision": "int8_static", "dynamic_shapes": True},
    "ipex bf16": {"mode": "ipex", "precision": "bf16"},
    "ipex_jit bf16": {"mode": "ipex_jit", "precision": "bf16"},
    "ipex_jit int8": {"mode": "ipex_jit", "precision": "int8_static", "int8_rest": "fp32"},
    "openvino fp32": {"mode": "openvino", "precision": "fp32"},
    "openvino int8": {"mode": "openvino", "precision": "int8_static", "int8_rest": "fp32"},
    "onnxruntime fp32": {"mode": "onnxruntime", "precision": "fp32"},
    "onnxruntime int8": {
        "mode": "onnxruntime",
        "precision": "int8_dynamic",
        "int8_weights": "per_channel",
    },
}
TEXTS = (
    "a plain start",
    "two friends meet again after many long years by the sea",
    "no",
    "it rained the whole week and nobody went out at all, not even once",
    "good",
)
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "int8_dynamic": 0.35, "int8_static": 0.35}
"""Largest difference from eager float32, relative to its largest output."""


def cells_of(family: str, folder: Path, engines: Sequence[str]) -> dict[str, str]:
    """Engine -> `ok`, or the kind of failure and its detail. Eager float32 comes first."""
    import numpy as np

    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]
    from families import build

    from autotune.host import detect
    from autotune.shared.errors import TrialFailure
    from autotune.shared.records import ModelSource, to_jsonable
    from autotune.shared.stopping import StoppingRule
    from autotune.worker import operations
    from autotune.worker.encode import encode

    operations.set_torch_knobs = lambda session: None  # one process opens many engines
    model = build(folder / "model", family, "text-classification")
    head = "AutoModelForSequenceClassification"
    source = ModelSource(path=str(model), head=head, outputs={"logits": "batch"})
    rows = folder / "rows.json"
    rows.write_text(json.dumps({"text": TEXTS, "text_pair": None}))
    (folder / "features").mkdir()
    sets = [{"rows_file": str(rows), "folder": str(folder / "features")}]
    try:
        facts = encode(source, sets=sets, max_seq_length=80, doc_stride=None, words=False)
    except TrialFailure as failure:
        return dict.fromkeys(engines, f"{failure.kind}: {failure.detail}")
    rule = to_jsonable(StoppingRule(min_passes=1, max_passes=1, budget_s=0.0))
    found: dict[str, str] = {}
    reference: list[Any] = []
    for name, options in ENGINES.items():
        if name not in (next(iter(ENGINES)), *engines):
            continue
        engine = {"attention": facts.attention, **options}
        if options["mode"] in ("eager", "jit"):
            engine["linear"] = "torch"
        worker = operations.Operations(workdir=str(folder))
        try:
            worker.open(
                source=to_jsonable(source),
                session={"threads": 1, "interop_threads": 1, "flush_denormals": False, **engine},
                features=str(folder / "features"),
                calibration=str(folder / "features"),
                reference=None,
                instruction_sets=list(detect().instruction_sets),
                cache=str(folder / "cache"),
                keep=False,
            )
            answers = []
            for point in (
                {"batch_size": 1, "padding": "longest"},
                {"batch_size": 3, "padding": "max_length"},
            ):
                worker.measure(point=point, rule=rule)
                answers.append(np.load(folder / "outputs.npz")["logits"])
            tolerance = TOLERANCE[str(options["precision"])]
            if not reference:
                reference = answers
                changes = farthest(answers[:1], answers[1:]) > tolerance
                found[PADDED] = "differs" if changes else "ok"
            worst = farthest(reference, answers)
            right = worst <= tolerance
            found[name] = "ok" if right else f"differs: by {worst:.2g} from eager fp32"
        except TrialFailure as failure:
            found[name] = f"{failure.kind}: {failure.detail}"
        except Exception as error:
            found[name] = f"crash: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return found


def farthest(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """The largest difference, relative to the largest expected value, at least 1."""
    import numpy as np

    scale = max(1.0, *(float(np.abs(array).max()) for array in expected))
    pairs = zip(expected, found, strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs) / scale


def cells_in_process(family: str, engines: list[str]) -> dict[str, str]:
    """`cells_of` in a process. If that dies, each engine is tried in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, family, "--cells", *engines], capture_output=True, text=True
    )
    if not done.returncode:
        found: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
        return found
    if len(engines) == 1:
        return {engines[0]: f"crash: the process ended with {done.returncode}"}
    found = {}
    for engine in engines:
        found |= cells_in_process(family, [engine])
    return found


def table(results: dict[str, dict[str, str]]) -> str:
    """The table, and the reasons of the cells that are not `ok`, in Markdown."""
    lines = ["| architecture | " + " | ".join(ENGINES) + " |", "|---" * (1 + len(ENGINES)) + "|"]
    reasons: dict[str, list[str]] = {}
    for family, cells in results.items():
        shown = []
        for engine in ENGINES:
            kind, _, detail = cells[engine].partition(": ")
            shown.append(kind)
            if kind != "ok":
                words = re.sub(r"[|<>`]", "", re.sub(r"/\S+", "...", detail))[:160]
                reasons.setdefault(f"{kind}: {words}", []).append(f"{family} ({engine})")
        mark = "\\*" if cells.get(PADDED) == "differs" else ""
        lines.append(f"| {family}{mark} | " + " | ".join(shown) + " |")
    listed = [f"- {reason} — {', '.join(where)}" for reason, where in sorted(reasons.items())]
    return "\n".join([*lines, "", *listed])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--cells", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "tests"))
    from families import FAMILIES

    if options.cells is not None:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            found = cells_of(options.families[0], Path(folder), options.cells)
        print(json.dumps(found))
        return
    results = {}
    for family in options.families or FAMILIES:
        results[family] = cells_in_process(family, list(ENGINES))
        print(family, {k: v[:90] for k, v in results[family].items() if v != "ok"}, flush=True)
    text = table(results)
    if options.write is None:
        print(text)
        return
    page = options.write.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    options.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
