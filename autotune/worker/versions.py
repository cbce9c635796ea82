"""Version numbers of the packages of a stack."""

from __future__ import annotations

from packaging.version import Version


def series(version: str) -> Version:
    """The major and minor number of `version`: 2.8 for "2.8.0+cpu".

    Series can be compared, and print as "2.8".
    """
    found = Version(version)
    return Version(f"{found.major}.{found.minor}")
