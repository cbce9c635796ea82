"""Whether a release of transformers takes and honours the flags that are emitted for it.

    python tests/releases.py [INTERPRETER ...]

prints a line for each interpreter; a test runs it for the one that runs the tests.
"""

from __future__ import annotations

import json
import subprocess
import sys

from autotune.emit.huggingface import script_line
from autotune.shared.records import Config
from autotune.tasks import task_named

TASKS = ("qa", "text-classification", "token-classification")
MODES = ("eager", "jit", "ipex", "ipex_jit", "inductor", "openvino")
PRECISIONS = (
    {"precision": "fp32"},
    {"precision": "bf16", "bf16_method": "autocast"},
    {"precision": "bf16", "bf16_method": "full"},
    {"precision": "int8_dynamic"},
)
THE_SCRIPTS_OWN = {
    "model_name_or_path",
    "train_file",
    "validation_file",
    "max_seq_length",
    "doc_stride",
    "pad_to_max_length",
}
"""Arguments of the example scripts, which no release carries: of their DataTrainingArguments."""

CHECK = """
import dataclasses, importlib, inspect, json, re, sys
import transformers
from transformers import HfArgumentParser, TrainingArguments
source = "".join(
    inspect.getsource(importlib.import_module(name))
    for name in ("transformers.trainer", "transformers.training_args")
)
known = {field.name for field in dataclasses.fields(TrainingArguments)}
problems = []
for argv in json.load(sys.stdin)["argvs"]:
    flags = [word[2:] for word in argv if word.startswith("--")]
    ours = [name for name in flags if name in known]
    kept = [w for n, w in enumerate(argv) if w.startswith("--") and w[2:] in known
        or n and argv[n - 1].startswith("--") and argv[n - 1][2:] in known
        and not w.startswith("--")]
    try:
        HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(kept)
    except BaseException as error:
        problems.append([argv, "does not parse: " + str(error)[:300]])
    for name in ours:
        if not re.search(r"\\b(?:args|self)\\." + name + r"\\b", source):
            problems.append([argv, "nothing reads --" + name])
    others = sorted(set(flags) - known)
    if others:
        problems.append([argv, others])
print(json.dumps({"version": transformers.__version__, "problems": problems}))
"""


def version_of(python: str) -> str:
    code = "import importlib.metadata; print(importlib.metadata.version('transformers'))"
    return subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def lines(version: str) -> list[list[str]]:
    """Every command line that may be emitted for `version`, without program and script."""
    found = []
    for task in TASKS:
        script = task_named(task).script
        assert script is not None
        for mode in MODES:
            for precision in PRECISIONS:
                for padding in ("max_length", "longest"):
                    line = script_line(
                        Config.of({"mode": mode, **precision, "padding": padding, "batch_size": 8}),
                        script=script,
                        transformers=version,
                        model="m",
                        data="d.json",
                        max_seq_length=384,
                        doc_stride=128,
                        variables={},
                    )
                    found.append(list(line.argv[2:]))
    return found


def check(python: str, argvs: list[list[str]] | None = None) -> tuple[str, int, list[list[object]]]:
    """Version, number of lines, and the problems: a flag that does not parse, one that nothing
    in the release reads, one that is neither the release's nor the script's."""
    argvs = lines(version_of(python)) if argvs is None else argvs
    done = subprocess.run(
        [python, "-c", CHECK],
        input=json.dumps({"argvs": argvs}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    problems = []
    for argv, problem in found["problems"]:
        if isinstance(problem, list):
            strange = set(problem) - THE_SCRIPTS_OWN
            if not strange:
                continue
            problem = f"unknown: {sorted(strange)}"
        problems.append([" ".join(argv), problem])
    return found["version"], len(argvs), problems


if __name__ == "__main__":
    for python in sys.argv[1:] or [sys.executable]:
        version, count, problems = check(python)
        print(f"transformers {version}: {count} command lines, {len(problems)} problems")
        for problem in problems[:5]:
            print("   ", problem)
