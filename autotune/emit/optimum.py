"""The best configuration and the baseline in the layout of optimum-benchmark's reports.

Each gets a folder with `benchmark_config.json` and `benchmark_report.json`, which
`BenchmarkConfig.from_json` and `BenchmarkReport.from_json` can read. Source of the layout:
https://github.com/huggingface/optimum-benchmark, `optimum_benchmark/benchmark/report.py` and
`optimum_benchmark/trackers/latency.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autotune.search.objective import throughput
from autotune.search.ranking import measured
from autotune.shared.engines import engine_named
from autotune.shared.precisions import precision_named
from autotune.shared.records import Config, Measurement, Trial
from autotune.tasks import task_named


def benchmark_report(measurement: Measurement) -> dict[str, Any]:
    """Return the content of `benchmark_report.json`.

    Load time and the time of each counted batch are in seconds, memory in MB, and throughput in
    samples/s.
    """
    memory = {
        "unit": "MB",
        "max_ram": measurement.peak_rss_bytes / 1e6,
        "max_global_vram": None,
        "max_process_vram": None,
        "max_reserved": None,
        "max_allocated": None,
    }
    nothing = {"energy": None, "efficiency": None}
    batches = [seconds for one in measurement.counted for seconds in one.batch_s]
    rate = {"unit": "samples/s", "value": throughput(measurement).median}
    return {
        "load": {
            "memory": memory,
            "latency": _latency_statistics([measurement.preparing_s]),
            "throughput": None,
            **nothing,
        },
        "forward": {
            "memory": memory,
            "latency": _latency_statistics(batches),
            "throughput": rate,
            **nothing,
        },
    }


def benchmark_config(name: str, trial: Trial, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `benchmark_config.json`: what was measured, and where.

    The other keys cannot express the whole configuration. The key `autotune` contains all of the
    configuration.
    """
    config, measurement = trial.config, measured(trial)
    workload, host = manifest["workload"], manifest["host"]
    stack = manifest["stacks"][str(config["stack"])]
    return {
        "name": name,
        "backend": _backend(config, manifest, stack["versions"]),
        "scenario": {
            "name": "inference",
            "_target_": "optimum_benchmark.scenarios.inference.scenario.InferenceScenario",
            "iterations": sum(len(p.batch_s) for p in measurement.counted),
            "input_shapes": {
                "batch_size": max(measurement.batch_features),
                "sequence_length": workload["max_seq_length"],
            },
            "latency": True,
            "memory": True,
            "energy": False,
        },
        "launcher": {
            "name": "process",
            "_target_": "optimum_benchmark.launchers.process.launcher.ProcessLauncher",
        },
        "environment": {
            "cpu": host["model_name"],
            "cpu_count": host["cores"],
            "cpu_ram_mb": host["memory_gib"] * 2**30 / 1e6,
            "system": "Linux",
            "python_version": stack["python_version"],
            **{
                f"{_with_underscores(package)}_version": version
                for package, version in stack["versions"].items()
            },
        },
        "autotune": {"version": manifest["autotune"], "config": dict(config)},
    }


def _backend(
    config: Config, manifest: Mapping[str, Any], versions: Mapping[str, str]
) -> dict[str, Any]:
    engine = engine_named(config["mode"])
    task = task_named(manifest["workload"]["task"])
    return {
        "name": engine.optimum_backend,
        "version": versions.get(engine.optimum_package),
        "task": task.optimum_name or task.name,
        "library": "transformers",
        "model_type": manifest["model"]["model_type"],
        "model": manifest["model"]["name"],
        "device": "cpu",
        "intra_op_num_threads": config["threads"],
        "inter_op_num_threads": config["interop_threads"],
        "torch_dtype": precision_named(config["precision"]).dtype,
    }


def _with_underscores(package: str) -> str:
    return package.replace("-", "_")


def _latency_statistics(values: Sequence[float]) -> dict[str, Any]:
    mean, stdev = float(np.mean(values)), float(np.std(values))
    percentiles = {f"p{p}": float(np.percentile(values, p)) for p in (50, 90, 95, 99)}
    return {
        "unit": "s",
        "values": list(values),
        "count": len(values),
        "total": float(np.sum(values)),
        "mean": mean,
        **percentiles,
        "stdev": stdev,
        "stdev_": 100 * stdev / mean,
    }
