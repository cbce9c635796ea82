"""The only code that imports torch. Runs as its own process, on any interpreter (`__main__`).

It needs the standard library, numpy, torch and transformers. Of this project it imports
`autotune.shared` alone. Nothing else of the project imports it.
"""
