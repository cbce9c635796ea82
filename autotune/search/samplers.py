"""The samplers that `--sampler` names: autotune's own, and those of Optuna that can choose here.

Every knob is a choice among values. Optuna's other samplers cannot choose among values together:
they would draw at random under another name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from typing import TYPE_CHECKING

from autotune.shared.errors import InputError
from autotune.shared.words import known_names

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autotune.space import Space

AUTOTUNE = "autotune"
SAMPLERS = {
    AUTOTUNE: "expected gain a second, by two Gaussian processes",
    "tpe": "Optuna's tree-structured Parzen estimator",
    "tpe-multivariate": "the same, with parameters grouped by their conditions",
    "gp": "Optuna's Gaussian process; needs torch beside autotune",
    "nsga2": "Optuna's genetic algorithm",
    "random": "uniform draws",
}
"""The name of each sampler, and what it is."""
REFUSED = {
    "cmaes": "CMA-ES moves numbers, and every knob is a choice among values",
    "qmc": "quasi-random sequences spread numbers, and every knob is a choice among values",
    "grid": "a grid has no conditional knobs; random tries every configuration in the end",
    "brute-force": "no configuration is measured twice; random tries every one in the end",
    "nsga3": "it is for several objectives; nsga2 is for one",
}
"""Samplers of Optuna's that are of no use here, and why."""


def check_sampler(name: str) -> None:
    """Raises InputError, one line, if no sampler has this `name` or if it cannot run here."""
    if name in REFUSED:
        raise InputError(f"--sampler {name}: {REFUSED[name]}; known: {', '.join(SAMPLERS)}")
    if name not in SAMPLERS:
        raise InputError(f"--sampler {name}: no such sampler; {known_names(name, SAMPLERS)}")
    if name == "gp" and importlib.util.find_spec("torch") is None:
        raise InputError(
            "--sampler gp: Optuna's Gaussian process needs torch in the environment of autotune; "
            "install it there, or drop the option"
        )


def sampler_seed(seed: int, *, shared_by: str | None) -> int:
    """The seed of a sampler. `shared_by` is the name of a run that shares its storage.

    Samplers of Optuna's would suggest the same to every run that shares a storage and a seed.
    """
    if shared_by is None:
        return seed
    digest = hashlib.sha256(f"{seed} {shared_by}".encode()).digest()
    return int.from_bytes(digest[:4]) % 2**31


def make_sampler(
    name: str, space: Space, *, seed: int, run: str | None = None, host: str | None = None
) -> BaseSampler:
    """The sampler with this `name`. `run` and `host` are those of `AutotuneSampler`.

    Raises InputError as `check_sampler`.
    """
    check_sampler(name)
    from optuna import samplers

    from autotune.search.sampler import AutotuneSampler

    if name == AUTOTUNE:
        return AutotuneSampler(space, seed=seed, run=run, host=host)
    if name == "tpe-multivariate":
        with warnings.catch_warnings():  # grouping is experimental, and says so
            warnings.simplefilter("ignore")
            return samplers.TPESampler(seed=seed, multivariate=True, group=True)
    if name == "gp":
        return samplers.GPSampler(seed=seed)
    if name == "tpe":
        return samplers.TPESampler(seed=seed)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed)
    return samplers.RandomSampler(seed=seed)
