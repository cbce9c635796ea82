"""The only code that imports torch. Runs as its own process, on any interpreter (`__main__`).

Needs the standard library, numpy, torch and transformers; of this project it
imports `autotune.records`, `autotune.errors` and `autotune.stats` alone. Nothing else of the
project imports it.
"""
