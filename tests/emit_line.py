"""A ready-made command line of the example script."""

from autotune.emit.huggingface import ScriptLine

LINE = ScriptLine(
    variables={"OMP_NUM_THREADS": "2"},
    argv=("python", "run_qa.py"),
    not_expressed=("padding=length_sorted: unsorted",),
    source="examples",
)
