"""What both programs use: all that the worker may import of this project.

Standard library and numpy only, since the worker runs on interpreters that have no more.
"""
