"""The worker: a process of its own, on any interpreter, and the only code that imports torch.

It starts in `__main__` and needs numpy, torch and transformers besides the standard library. It
imports no other package of this project than `autotune.shared`, and no other package imports it.
"""
