"""How long does `autotune --help` take?

    python bench/startup.py [--runs 20] [--limit-ms 200]

Times whole processes. Prints the median and the range. Exits 1 if the median is above the limit.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--limit-ms", type=float, default=200.0)
    options = parser.parse_args()
    times = []
    for _ in range(options.runs + 1):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "autotune", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        times.append(1000 * (time.perf_counter() - start))
    times = times[1:]  # the first run reads from disk
    median = statistics.median(times)
    print(f"autotune --help: median {median:.0f} ms, {min(times):.0f} to {max(times):.0f} ms")
    sys.exit(median > options.limit_ms)


if __name__ == "__main__":
    main()
