"""Run the small inputs that once failed, from ../shared/cases, and say how each ends.

    python tests/shared_cases.py [CASE ...]

prints one line a case, and exits 1 if one does not end as it must. `make test-full` runs the same.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
CASES, MODELS = SHARED / "cases", SHARED / "models"
SST2, WNUT, DEMO = "minilm-l6-sst2", "minilm-l6-wnut17", "demo"
SCRIPTS = {SST2: "run-glue", WNUT: "run-ner", DEMO: "run-qa"}


class Wrong(Exception):
    """A case that does not end as it must; the message says how it ended."""


class Case:
    """One folder of cases, with a scratch folder for what its commands write."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.folder, self.scratch = CASES / name, scratch

    def model(self, base: str | None = None) -> str:
        """The model of the case: whole, or `base` with the configuration of the case."""
        own = self.folder / "model"
        if base is None or (own / "model.safetensors").exists():
            return str(own)
        made = self.scratch / "model"
        if not made.exists():
            shutil.copytree(MODELS / base, made)
            if own.exists():
                shutil.copy(own / "config.json", made / "config.json")
        return str(made)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "autotune", *arguments],
            capture_output=True,
            text=True,
            cwd=self.scratch,
            timeout=600,
        )
        if "Traceback" in done.stderr:
            raise Wrong("a traceback: " + done.stderr.strip().splitlines()[-1][:200])
        return done

    def evaluate(self, base: str, file: str, *options: str, model: str | None = None) -> dict:
        """The metrics of an evaluation, which must succeed."""
        done = self._evaluated(base, file, *options, model=model)
        if done.returncode:
            raise Wrong(f"exit {done.returncode}: {error_of(done)}")
        return json.loads(done.stdout)

    def refused(self, base: str, file: str, *options: str, model: str | None = None) -> str:
        """The one line of an evaluation that must be refused."""
        done = self._evaluated(base, file, *options, model=model)
        return one_line(done)

    def either(self, base: str, file: str, *options: str, model: str | None = None) -> str:
        """How an evaluation ended: with metrics, or with one line."""
        done = self._evaluated(base, file, *options, model=model)
        return "read" if done.returncode == 0 else one_line(done)

    def _evaluated(self, base, file, *options, model):
        path = model or (str(demo_model()) if base == DEMO else self.model(base))
        output = tempfile.mkdtemp(dir=self.scratch)
        rows = ("--validation_file", str(self.folder / file), "--output_dir", output)
        return self.run(
            SCRIPTS[base], "--model_name_or_path", path, *rows, "--do_eval", "--json", *options
        )


def demo_model() -> Path:
    from autotune import demo

    return demo.MODEL


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith(("autotune:", "Error:"))]
    return lines[-1][:300] if lines else done.stderr[-300:]


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith(("autotune:", "Error:"))]
    if done.returncode != 2 or len(lines) != 1:
        raise Wrong(f"exit {done.returncode}, {len(lines)} lines: {done.stderr[-300:]}")
    return lines[0]


def equal(found: float, wanted: float, what: str) -> str:
    if abs(found - wanted) > 5e-5:
        raise Wrong(f"{what} {found:.4f}, must be {wanted:.4f}")
    return f"{what} {found:.4f}"


def says(line: str, words: str) -> str:
    if not re.search(words, line):
        raise Wrong(f"does not say {words!r}: {line}")
    return line


def accuracy(case: Case, file: str, wanted: float) -> str:
    return equal(case.evaluate(SST2, file)["eval_accuracy"], wanted, "accuracy")


def labels_digit_names(case: Case) -> str:
    ends = [accuracy(case, file, 0.8281) for file in ("int01.jsonl", "str01.jsonl")]
    for file in ("int12.jsonl", "str12.jsonl"):
        ends.append(accuracy(case, file, 0.8281))
    return "; ".join([*ends, case.either(SST2, "int1only.jsonl")])


def swapped(case: Case) -> str:
    """The model's names decide, or an error; the other reading of the labels gives 0.8281."""
    return "; ".join(f"{f}: {case.either(SST2, f)}" for f in ("int.jsonl", "str.jsonl"))


def search_and_verify(case: Case) -> str:
    """A search, its launch.sh and verify, on a text with U+2028 and U+0085."""
    shutil.copy(case.folder / "dev.csv", case.scratch / "dev.csv")
    model, task = case.model(SST2), ("--task", "text-classification")
    narrow = ("--set", "mode=jit", "--set", "precision=fp32", "--trials", "2")
    found = case.run(
        *("search", "--model", model, *task, "--dataset", "dev.csv", *narrow),
        *("--time-budget", "3m", "--output", "run", "--quiet", "--accept-degenerate"),
    )
    if found.returncode:
        raise Wrong(f"search: exit {found.returncode}: {error_of(found)}")
    launched = subprocess.run(["bash", "run/launch.sh"], cwd=case.scratch, capture_output=True)
    if launched.returncode:
        raise Wrong(f"launch.sh: exit {launched.returncode}")
    verified = case.run("verify", "run", "--min-speedup", "0.01")
    if verified.returncode not in (0, 3):
        raise Wrong(f"verify: exit {verified.returncode}: {error_of(verified)}")
    return "search, launch.sh and verify end"


def degenerate(case: Case) -> str:
    done = case.run(
        *("search", "--model", case.model(WNUT), "--task", "token-classification"),
        *("--dataset", str(case.folder / "dev.jsonl"), "--trials", "2", "--output", "run"),
    )
    return says(one_line(done), "f1 is 0.00")


def runs_or_says(case: Case) -> str:
    """A search of the tiny model of the case, which must end well or in one line."""
    task = {"roberta-ner": "token-classification", "gpt2-embed": "feature-extraction"}
    name = case.folder.name
    data = case.folder / "dev.jsonl"
    if not data.exists():
        data = SHARED / "data" / "sst2-dev.jsonl"
    if name == "roberta-ner" and not (case.folder / "dev.jsonl").exists():
        data = SHARED / "data" / "wnut17-dev.jsonl"
    done = case.run(
        *("search", "--model", case.model(), "--dataset", str(data), "--max-samples", "16"),
        *("--task", task.get(name, "text-classification"), "--trials", "2", "--output", "run"),
        *("--set", "mode=jit", "--time-budget", "3m", "--accept-degenerate", "--quiet"),
    )
    return "runs" if done.returncode == 0 else one_line(done)


def unanswerable(case: Case) -> str:
    """Scored by the official rules; the three spellings of a question without an answer agree."""
    found = [
        case.evaluate(DEMO, file)
        for file in ("empty_list.jsonl", "empty_text.jsonl", "minus1.jsonl")
    ]
    scores = [{k: v for k, v in one.items() if "exact" in k or "f1" in k} for one in found]
    if any(one != scores[0] for one in scores) or "eval_NoAns_f1" not in scores[0]:
        raise Wrong(f"scores differ: {scores}")
    return f"f1 {scores[0]['eval_f1']:.2f}, NoAns_f1 {scores[0]['eval_NoAns_f1']:.2f}"


def csv_forms(case: Case) -> str:
    ends = []
    for file in sorted(case.folder.iterdir()):
        if file.name == "dupheader.csv":
            says(case.refused(SST2, file.name), "two columns are named 'label'")
        elif file.name in ("upper.CSV", "data.tsv"):
            case.evaluate(SST2, file.name)
        ends.append(f"{file.name}: {case.either(SST2, file.name)[:60]}")
    return "; ".join(ends)


def spaces(case: Case) -> str:
    """Each file is read as it says, or refused in one line."""
    refused = 0
    for file in sorted(case.folder.glob("*.yaml")):
        done = case.run("spaces", "validate", str(file))
        if done.returncode:
            line, refused = one_line(done), refused + 1
            if file.name == "c_jitt.yaml":
                says(line, "did you mean jit")
        elif file.name == "c_jitt.yaml":
            raise Wrong("c_jitt.yaml was read")
    return f"{refused} refused in one line, the others read"


def hosts(case: Case) -> str:
    from autotune.host import detect

    for folder in sorted(case.folder.iterdir()):
        found = detect(root=folder)
        if found.cores < 1:
            raise Wrong(f"{folder.name}: no cores")
    return f"{len(list(case.folder.iterdir()))} read"


def odd(case: Case) -> str:
    """One line, or read. Read by the tasks themselves: a model takes no part in it."""
    from autotune.shared.errors import InputError
    from autotune.tasks import task_named

    read = refused = 0
    for file in sorted(case.folder.iterdir()):
        name = {"qa": "qa", "ner": "token-classification", "fe": "feature-extraction"}
        task = task_named(name.get(file.name.partition("-")[0], "text-classification"))
        labels = ("O", "B-x") if file.name.startswith("ner") else ("0", "1")
        try:
            loaded = task.load(str(file), None)
            known = loaded.task.for_model(labels)
            known.texts(known.with_model_labels(loaded.rows))
            read += 1
        except InputError as error:
            if "\n" in str(error) or len(str(error)) > 600:
                raise Wrong(f"{file.name}: {str(error)[:200]}") from error
            refused += 1
    return f"{read} read, {refused} refused in one line"


def predictions(case: Case) -> str:
    return says(case.refused(DEMO, "dev.jsonl"), "both have the id")


def ner(case: Case, file: str, wanted: float) -> str:
    return equal(case.evaluate(WNUT, file)["eval_f1"], wanted, "f1")


def pos_tags(case: Case) -> str:
    found = case.evaluate(WNUT, "dev.jsonl")["eval_accuracy"]
    if found <= 0.5:
        raise Wrong(f"accuracy {found:.4f}")
    return f"accuracy {found:.4f} per word"


def zero_width(case: Case) -> str:
    ends = [ner(case, "mixed.jsonl", 0.4324)]
    return "; ".join([*ends, *(case.either(WNUT, f) for f in ("nonetok.jsonl", "only.jsonl"))])


ENDS: dict[str, Callable[[Case], str]] = {
    "jsonl-u2028": lambda c: "; ".join(c.either(SST2, f) for f in ("dev.jsonl", "nel.jsonl")),
    "u2028-csv": search_and_verify,
    "jsonl-brokenline": lambda c: says(c.refused(SST2, "dev.jsonl"), "line 150"),
    "ner-bioes": lambda c: ner(c, "dev.jsonl", 0.6044),
    "ner-pos-tags": pos_tags,
    "ner-all-o": degenerate,
    "qnli-columns": lambda c: accuracy(c, "dev.jsonl", 0.8750),
    "labels-digit-names": labels_digit_names,
    "labels-case": lambda c: accuracy(c, "dev.jsonl", 0.8281),
    "labels-swapped-names": swapped,
    "ner-long": lambda c: ner(c, "dev.jsonl", 0.3931),
    "ner-zero-width": zero_width,
    "ner-nested-tags": lambda c: c.refused(WNUT, "dev.jsonl"),
    "qa-start-scalar": lambda c: c.refused(DEMO, "dev.jsonl"),
    "roberta-ner": runs_or_says,
    "roberta-514": runs_or_says,
    "gpt2-no-pad": runs_or_says,
    "gpt2-embed": runs_or_says,
    "qa-long-question": lambda c: "; ".join(
        says(c.refused(DEMO, f), r"row \d+") for f in ("over.jsonl", "stride.jsonl")
    ),
    "qa-dup-ids": predictions,
    "qa-empty-context": lambda c: c.either(DEMO, "dev.jsonl"),
    "qa-v2": unanswerable,
    "csv-forms": csv_forms,
    "yaml": spaces,
    "yaml-conditions": spaces,
    "hosts": hosts,
    "lxcfs": hosts,
    "odd": odd,
}


def end_of(name: str) -> str:
    """How the case ends. Raises Wrong."""
    with tempfile.TemporaryDirectory(prefix="case-") as scratch:
        return ENDS[name](Case(name, Path(scratch)))


def main(names: list[str]) -> int:
    wrong = 0
    for name in names or ENDS:
        try:
            print(f"{name}: {end_of(name)[:300]}", flush=True)
        except Wrong as error:
            wrong += 1
            print(f"{name}: WRONG: {error}", flush=True)
    print(f"{len(names or ENDS)} cases, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
