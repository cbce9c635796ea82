"""A lower bound on a configuration's time: its operations at the peak rate of this host.

A configuration that would lose to the leader even at the peak rate need not be run. int8 has no
bound, because int8 kernels are faster than every matrix product that is measured here.
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
from autotune.shared.padding import UNPADDED, plan
from autotune.shared.precisions import BASELINE, known_precisions, precision_named
from autotune.shared.records import Config, StackFacts
from autotune.space.knobs import names
from autotune.store import cache

PEAK_MARGIN = 1.25
"""The peak rate is multiplied by this before it rules out a configuration, because it is measured
in a few seconds on a host that may be busy."""
PEAK_SEARCHES = 3
"""The number of searches that measure the peak rate. The highest counts, because the host may be
busy during one of them."""

TIMEOUT_S = 300.0
POINT_KNOBS = names("point")

Polynomial = tuple[float, float, float]
Peaks = Mapping[tuple[str, int], float]
"""Operations a second, by peak precision and threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Lower bounds on the times of one workload's configurations.

    `polynomial` gives the operations of a row by its padded width (`ModelFacts.work`). `lengths`
    are the tokens of each row, shape (rows,).
    """

    polynomial: Polynomial
    peaks: Peaks
    lengths: npt.NDArray[np.integer]
    max_seq_length: int
    _work: dict[Config, tuple[float, ...]] = field(default_factory=dict)

    def batch_s(self, config: Config) -> tuple[float, ...] | None:
        """The least seconds that each batch of a pass can take; None if no peak rate is known."""
        precision, threads = precision_named(config["precision"]).peak, config["threads"]
        if precision is None:
            return None
        counts = [n for known, n in self.peaks if known == precision and n >= int(threads)]
        if not counts:
            return None
        peak = self.peaks[precision, min(counts)]  # more threads are no slower: a bound for fewer
        return tuple(work / peak for work in self.work(config))

    def eager_s(self) -> float:
        """The least seconds in which float32 can run every row once, without padding."""
        config = Config.of(
            {
                "precision": BASELINE.name,
                "threads": max(threads for _, threads in self.peaks),
                "padding": UNPADDED,
                "batch_size": 1,
            }
        )
        row_s = self.batch_s(config)
        assert row_s is not None  # every host has a peak of float32
        return sum(row_s)

    def work(self, config: Config) -> Sequence[float]:
        """Operations of each batch of a pass, padding included."""
        point = config.only(POINT_KNOBS)
        if point not in self._work:
            c, a, b = self.polynomial
            planned = plan(
                self.lengths,
                max_seq_length=self.max_seq_length,
                **point,
            )
            self._work[point] = tuple(
                len(p.rows) * (c + a * p.width + b * p.width**2) for p in planned
            )
        return self._work[point]


def peaks(
    worker: WorkerProcess, host: Host, facts: StackFacts, *, afresh: bool = False
) -> dict[tuple[str, int], float]:
    """The peak rates of this host: operations a second, by peak precision and threads.

    Each is the highest rate that `worker` finds now or a search with the same torch found before.
    After PEAK_SEARCHES searches `worker` measures no more, unless `afresh`. Raises StackError if
    the worker fails.
    """
    threads = sorted({*(1 << i for i in range(host.cores.bit_length())), host.cores})
    threads = [count for count in threads if count <= host.cores]
    here = [p for p in known_precisions().values() if p.refusal(host.instruction_sets) is None]
    precisions = [*dict.fromkeys(p.peak for p in here if p.peak is not None)]
    identity = {**host.fingerprint(), "torch": facts.versions.get("torch"), "threads": threads}
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    place = cache.folder() / "peaks" / f"{name}.json"
    searches, highest = _read_cache(place, threads)
    if afresh or searches < PEAK_SEARCHES:
        for count in threads:
            arguments = {"threads": count, "precisions": precisions}
            try:
                rates = worker.request("peak", arguments, timeout_s=TIMEOUT_S)
            except WorkerFailed as failed:
                raise StackError(f"the peak cannot be measured: {failed}") from failed
            known = highest.setdefault(str(count), {})
            for precision, rate in rates.items():
                known[precision] = max(rate, known.get(precision, 0.0))
        cache.write(place, json.dumps({"occasions": searches + 1, "highest": highest}))
    return {
        (precision, int(count)): float(rate)
        for count, rates in highest.items()
        for precision, rate in rates.items()
    }


def _read_cache(place: Path, threads: Sequence[int]) -> tuple[int, dict[str, dict[str, float]]]:
    """The number of searches that measured, and the highest rates by threads and precision.

    0 and no rates if the file at `place` cannot be read or lacks some of `threads`.
    """
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        highest: dict[str, dict[str, float]] = kept["highest"]
        usable = set(highest) == set(map(str, threads)) and all(
            rate > 0 for rates in highest.values() for rate in rates.values()
        )
        return (int(kept["occasions"]), highest) if usable else (0, {})
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return 0, {}
