"""The best that a configuration can be: its work at this host's measured peak.

A configuration whose best possible value is worse than what the leader has measured need not be
run. Nothing is said of int8, whose kernels reach what no product measured here does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autotune.driver.channel import WorkerFailed
from autotune.driver.process import WorkerProcess
from autotune.host import Host
from autotune.shared.errors import StackError
from autotune.shared.instructions import has_bf16
from autotune.shared.padding import plan
from autotune.shared.records import Config, StackFacts
from autotune.space.knobs import names
from autotune.store import cache

FAMILY = {"fp32": "fp32", "bf16": "bf16", "bf16_matmul": "bf16"}
"""Precision -> whose peak limits it."""
MARGIN = 1.25
"""The peak is measured in a few seconds on a host that may be busy: it is taken for so much
higher before anything is ruled out by it."""
OCCASIONS = 3
"""So many searches measure it, for one of them may have met a busy host; the highest counts."""

TIMEOUT_S = 300.0
POINT_KNOBS = names("point")

Polynomial = tuple[float, float, float]
Peaks = Mapping[tuple[str, int], float]
"""(precision family, threads) -> operations a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """`polynomial` is the work of a row by its padded width (`ModelFacts.work`), `peaks` the
    operations a second by precision family and threads, `lengths` the tokens of each row."""

    polynomial: Polynomial
    peaks: Peaks
    lengths: npt.NDArray[np.integer]
    max_seq_length: int
    _work: dict[Config, tuple[float, ...]] = field(default_factory=dict)

    def batch_s(self, config: Config) -> tuple[float, ...] | None:
        """Seconds that each batch of a pass takes at least. None where nothing is known."""
        family = FAMILY.get(str(config["precision"]))
        peak = self.peaks.get((family or "", int(config["threads"])))
        if peak is None:
            return None
        return tuple(work / peak for work in self.work(config))

    def work(self, config: Config) -> Sequence[float]:
        """Operations of each batch of a pass, padding included."""
        point = config.only(POINT_KNOBS)
        if point not in self._work:
            c, a, b = self.polynomial
            planned = plan(
                self.lengths,
                max_seq_length=self.max_seq_length,
                **point.as_dict(),  # type: ignore[arg-type]
            )
            self._work[point] = tuple(
                len(p.rows) * (c + a * p.width + b * p.width**2) for p in planned
            )
        return self._work[point]


def peaks(
    worker: WorkerProcess, host: Host, facts: StackFacts, *, afresh: bool = False
) -> dict[tuple[str, int], float]:
    """This host's, for each number of threads it may be given: the highest that `worker` and
    earlier measurements with the same torch found. Not measured again after OCCASIONS of those,
    unless `afresh`. Raises StackError.
    """
    threads = sorted({*(1 << i for i in range(host.cores.bit_length())), host.cores})
    threads = [count for count in threads if count <= host.cores]
    precisions = ["fp32", *(["bf16"] if has_bf16(host.instruction_sets) else [])]
    identity = {**host.fingerprint(), "torch": facts.versions.get("torch"), "threads": threads}
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    place = cache.folder() / "peaks" / f"{name}.json"
    occasions, highest = _remembered(place, threads)
    if afresh or occasions < OCCASIONS:
        for count in threads:
            arguments = {"threads": count, "precisions": precisions}
            try:
                rates = worker.request("peak", arguments, timeout_s=TIMEOUT_S)
            except WorkerFailed as failed:
                raise StackError(f"the peak cannot be measured: {failed}") from failed
            known = highest.setdefault(str(count), {})
            for precision, rate in rates.items():
                known[precision] = max(rate, known.get(precision, 0.0))
        cache.write(place, json.dumps({"occasions": occasions + 1, "highest": highest}))
    return {
        (precision, int(count)): float(rate)
        for count, rates in highest.items()
        for precision, rate in rates.items()
    }


def _remembered(place: Path, threads: Sequence[int]) -> tuple[int, dict[str, dict[str, float]]]:
    """How often it was measured, and the highest by threads and precision; 0 where what is kept
    cannot be read."""
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        highest: dict[str, dict[str, float]] = kept["highest"]
        usable = set(highest) == set(map(str, threads)) and all(
            rate > 0 for rates in highest.values() for rate in rates.values()
        )
        return (int(kept["occasions"]), highest) if usable else (0, {})
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return 0, {}
