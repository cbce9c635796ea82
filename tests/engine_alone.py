"""An engine in a process of its own: IPEX changes the kernels of the process that it is in.

python -c "from engine_alone import answers; ..." FOLDER OPTIONS
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = {
    "ipex": "intel_extension_for_pytorch",
    "ipex_jit": "intel_extension_for_pytorch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
}
HERE = Path(__file__).parent


def run_alone(code: str, folder: Path, options: dict[str, str]) -> float:
    """Run `code` with `folder` and the engine knobs `options`; the number that it prints last."""
    if options["mode"] in PACKAGES:
        pytest.importorskip(PACKAGES[options["mode"]])
    path = os.pathsep.join([*sys.path, str(HERE / "worker"), str(HERE)])
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split()[-1])


def difference(features, source, folder, options, *, attention, width, expected):
    """How far the first rows are from `expected`, relative to the largest expected number."""
    import numpy as np

    from autotune.worker.batches import calibration_batches, sample_batches
    from autotune.worker.engines import engine_class
    from autotune.worker.engines.base import Material

    material = Material(
        source=source,
        arrays=features.arrays,
        samples=sample_batches(features),
        calibration=calibration_batches(features),
        threads=1,
        instruction_sets=frozenset({"avx2", "avx512_vnni"}),
        cache=folder / "cache",
        own_pad_token=features.own_pad_token,
        work=features.work,
    )
    engine = {"attention": attention, "linear": "torch", "bf16_method": "autocast"}
    engine |= {"int8_weights": "per_channel", **options}
    prepared = engine_class(options["mode"])(engine).prepare(material)
    (found,) = prepared.call(features.batch(list(range(len(expected))), width))
    return np.abs(found - expected).max() / max(np.abs(expected).max(), 1.0)
