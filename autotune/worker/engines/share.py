"""The share of a model's floating-point work that runs as a configuration asks.

A configuration says int8, and an engine may convert one layer of fifty. Each engine counts what
its prepared model really runs on one batch, and asks `check_share` whether that is enough.
"""

from __future__ import annotations

from collections.abc import Callable

from autotune.shared.errors import TrialFailure
from autotune.shared.precisions import precision_named
from autotune.shared.records import Config, Scalar
from autotune.worker.engines.base import Material

MIN_SHARE = 0.5
"""At least this share of the products with weights must run as asked. Less is a fallback.

Products of attention are left out of the limit: no engine's dynamic int8 converts them, and in
long rows they are most of the work."""


def check_share(
    asked: str, kind: str, done: float, whole: float, material: Material
) -> dict[str, Scalar]:
    """The share of all operations that run as asked, for the record: `{"int8_share": 0.93}`.

    `done` of the `whole` operations of `material.samples[0]` are of this `kind`. Raises
    TrialFailure `fallback` if they are less than MIN_SHARE of the products with weights.
    """
    rows, width = material.samples[0].shape
    weights = whole
    if material.work is not None:
        c, a, b = material.work
        weights, whole = rows * (c + a * width), rows * (c + a * width + b * width**2)
    share = min(done / whole, 1.0) if whole else 0.0
    if done < MIN_SHARE * weights:
        raise TrialFailure(
            "fallback",
            f"{asked} runs {share:.1%} of this model's floating-point work in {kind}: less than "
            f"{MIN_SHARE:.0%} of the products with weights, so it would be measured as something "
            "that it is not",
        )
    return {f"{kind}_share": round(share, 4)}


def check_torch_share(
    call: Callable[[], object], options: Config, material: Material
) -> dict[str, Scalar]:
    """`check_share` of a torch engine, for its precision and for the knob `linear`.

    `call` runs `material.samples[0]` once.
    """
    from autotune.worker.flops import count_work

    kind = precision_named(options["precision"]).product_type
    library = options.get("linear", "torch") != "torch"
    if kind is None and not library:
        return {}
    counted = count_work(call)
    shares: dict[str, Scalar] = {}
    if kind is not None:
        asked = f"precision={options['precision']}"
        shares |= check_share(asked, kind, counted.by_type[kind], counted.total, material)
    if library:
        asked = f"linear={options['linear']}"
        shares |= check_share(asked, "onednn", counted.onednn, counted.total, material)
    return shares
