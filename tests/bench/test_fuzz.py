"""A few of the damaged inputs of bench/fuzz.py, so that a reader that breaks is seen at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "bench" / "fuzz.py"


def test_readers_of_input_raise_their_own_errors_only():
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--inputs", "3300", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "3300 inputs, 0 crashes"
