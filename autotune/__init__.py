"""autotune: the fastest correct way to run one Hugging Face model on one CPU host.

This package is two programs. The orchestrator is everything outside `autotune.worker` and never
imports torch. The worker is `autotune.worker`; it is started as a process, on any interpreter that
has torch. Both use `autotune.shared`.
"""

__version__ = "0.1.0"
