"""A finished run, tested again: `run`, `verify`, `serve-test`, and what launch.sh calls."""
