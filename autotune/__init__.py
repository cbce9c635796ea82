"""autotune: the fastest correct way to run one Hugging Face model on one CPU host.

This package is two programs that share `autotune.records` and `autotune.errors`:
the orchestrator (everything outside `autotune.worker`, free of torch) and the worker
(`autotune.worker`, started as a process on any interpreter that has torch).
"""

__version__ = "0.1.0"
