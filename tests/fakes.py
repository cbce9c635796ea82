"""Stand-ins for what is slow or noisy: a runner with a formula, and ready-made records."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autotune.driver.runner import Outcome
from autotune.host import Host
from autotune.host.topology import Cpu
from autotune.shared.records import Accuracy, Config, Failure, Measurement, Pass, Trial
from autotune.shared.stopping import StoppingRule
from autotune.space import Surroundings

MODES = {
    "eager": {"fp32": None, "bf16": None, "int8_dynamic": None},
    "jit": {"fp32": None, "bf16": None, "int8_dynamic": None},
    "ipex": {"fp32": None, "bf16": None},
    "ipex_jit": {"fp32": None, "bf16": None},
}
WITHOUT_IPEX = {
    mode: {p: "IPEX is not installed" if mode.startswith("ipex") else None for p in precisions}
    for mode, precisions in MODES.items()
}


def host(cores: int = 4, quota: float | None = None) -> Host:
    return Host(
        model_name="Test CPU",
        cpus=tuple(Cpu(number=n, core=n, socket=0, node=0) for n in range(cores)),
        allowed=tuple(range(cores)),
        cpu_quota=quota,
        memory_bytes=2**34,
        memory_limited=False,
        instruction_sets=("avx2", "avx512_bf16"),
        kernel="6.1",
    )


def surroundings(objective: str = "throughput", *, cores: int = 4, modes=MODES) -> Surroundings:
    return Surroundings(
        cores=cores,
        attentions=("sdpa", "eager"),
        modes={"default": modes},
        objective=objective,
        missing={"allocator": {"jemalloc": "no jemalloc"}},
    )


def measurement(pass_s: float, *, passes: int = 3, examples: int = 10) -> Measurement:
    """`examples` examples, one a batch, in `pass_s` seconds."""
    one = Pass(batch_s=(pass_s / examples,) * examples)
    return Measurement(
        examples=examples,
        features=examples,
        tokens=examples,
        padded_tokens=2 * examples,
        batch_features=(1,) * examples,
        passes=(one,) * passes,
        phases_s={"import": 1.0, "prepare": 1.0, "warm_up": 1.0, "measure": pass_s * passes},
        peak_rss_bytes=2**30,
        effective={
            "threads": 2,
            "cpus": "0,1",
            "allocator": "default",
            "omp_wait": "default",
            "interop_threads": 1,
            "flush_denormals": False,
        },
        outputs_digest="0" * 64,
        outputs_repeatable=True,
    )


def pass_seconds(config: Config) -> float:
    """A made-up machine: what a pass of ten examples takes, in seconds."""
    seconds = 10.0
    seconds /= {"eager": 1.0, "jit": 1.2, "ipex": 1.1, "ipex_jit": 1.3}[str(config["mode"])]
    seconds /= {"fp32": 1.0, "bf16": 2.0, "int8_dynamic": 3.0}[str(config["precision"])]
    seconds /= {"max_length": 1.0, "longest": 1.6, "length_sorted": 2.2, "buckets": 2.1}[
        str(config["padding"])
    ]
    seconds /= {1: 0.6, 2: 0.8, 4: 1.1, 8: 1.0, 16: 0.9, 32: 0.8}[int(config["batch_size"])]
    return seconds * 4 / int(config["threads"])


class FakeRunner:
    """Serves `pass_seconds`; `fail` may turn a configuration into a failure.

    int8 answers are wrong on purpose: outputs are off by one for it.
    """

    def __init__(
        self, seconds=pass_seconds, fail: Callable[[Config], Failure | None] = lambda c: None
    ) -> None:
        self.seconds = seconds
        self.fail = fail
        self.ran: list[Config] = []
        self.rules: list[StoppingRule] = []
        self.closed = 0

    def run(self, config: Config, rule: StoppingRule) -> Outcome:
        self.ran.append(config)
        self.rules.append(rule)
        failure = self.fail(config)
        if failure is not None:
            return Outcome(failure=failure, log="Traceback")
        wrong = 1.0 if config["precision"] == "int8_dynamic" else 0.0
        return Outcome(
            measurement=measurement(self.seconds(config)),
            outputs={"logits": np.full((10,), wrong, np.float32)},
        )

    def keep_open(self, configs) -> None:
        self.kept = list(configs)

    def close(self) -> None:
        self.closed += 1


class Recorder:
    """A listener that keeps what it was told."""

    def __init__(self) -> None:
        self.progress = []

    def started(self, config, origin, number) -> None:
        pass

    def expects(self, outlook) -> None:
        self.outlook = outlook

    def finished(self, progress) -> None:
        self.progress.append(progress)


def trial(**changes) -> Trial:
    """A trial that succeeded, with `changes`."""
    values = {
        "number": 3,
        "origin": "search",
        "config": Config.of({"mode": "jit", "batch_size": 8, "auto_kernel_selection": True}),
        "started": "2026-01-01T00:00:00+00:00",
        "duration_s": 4.5,
        "measurement": measurement(2.0),
        "accuracy": Accuracy(
            metrics={"f1": 54.0},
            relative_drop=0.002,
            agreement=0.9,
            max_abs_logit_difference=0.1,
            allowed=True,
        ),
    }
    return Trial(**{**values, **changes})
