"""What the two programs share: the orchestrator and the worker (see `autotune`) both import this.

The worker imports nothing else of the project outside `autotune.worker`. It runs on interpreters
that lack the orchestrator's dependencies, so this package needs only the standard library and numpy
(numpy in `padding` alone).

    records       the values that cross process boundaries or are written to disk
    errors        the exceptions that the project raises on purpose
    padding       which rows go together in a batch, and how wide the batch is
    stopping      when the passes of a point are enough
    stats         medians, ratios and their intervals
    instructions  what instruction sets mean for precisions

Sharing keeps two programs to one rule. Example: the worker stops a measurement and the report
prints its interval by the same `stats.median_interval`.
"""
