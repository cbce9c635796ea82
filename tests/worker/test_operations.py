"""The worker's operations with a made-up engine: no torch, but real files, passes and replies."""

from __future__ import annotations

import dataclasses
import json
import os
import time

import numpy as np
import pytest

from autotune.shared.engine import EngineDescriptor
from autotune.shared.errors import TrialFailure, describe
from autotune.shared.precisions import FP32
from autotune.shared.records import Config, Measurement, Screen
from autotune.shared.stopping import ANSWERS, StoppingRule
from autotune.worker import engines
from autotune.worker.batches import FEATURES_FILE, META_FILE
from autotune.worker.engines.base import Engine, Prepared
from autotune.worker.operations import Operations

ROWS, TOKENS, TOKEN_S = 24, 8, 1e-4
PASS_S = ROWS * TOKENS * TOKEN_S


class SleepingEngine(Engine):
    """Takes TOKEN_S for each token, and answers with the tokens. Or else it `raises`."""

    raises: Exception | None = None

    @classmethod
    def unsupported(cls, precision, environment):
        return None

    def prepare(self, material):
        if self.raises is not None:
            raise self.raises

        def call(batch):
            time.sleep(TOKEN_S * batch["input_ids"].size)
            return [batch["input_ids"].astype(np.float32)]

        return Prepared(call=call)


def described(name):
    """The descriptor of SleepingEngine under this name."""
    return EngineDescriptor(
        name=name,
        implementation=f"{__name__}:SleepingEngine",
        precisions=(FP32,),
        own_threads=True,
    )


@pytest.fixture
def operations(tmp_path, monkeypatch):
    """A session of SleepingEngine over ROWS rows of TOKENS tokens."""
    monkeypatch.setattr(engines, "ENGINES", {"sleeping": described("sleeping")})
    features = tmp_path / "features"
    features.mkdir()
    np.savez(
        features / FEATURES_FILE,
        input_ids=np.arange(ROWS * TOKENS, dtype=np.int32),
        lengths=np.full(ROWS, TOKENS, np.int32),
        example=np.arange(ROWS, dtype=np.int32),
    )
    meta = {
        "inputs": ["input_ids"],
        "pad": {"input_ids": 0},
        "padding_side": "right",
        "max_seq_length": TOKENS,
        "examples": ROWS,
    }
    (features / META_FILE).write_text(json.dumps(meta))
    opened = Operations(workdir=str(tmp_path))
    prepare(opened, mode="sleeping", precision="fp32")
    return opened


def prepare(operations, **engine):
    operations.open(
        source={"path": "m", "head": "AutoModel", "outputs": {"logits": "token"}},
        session={"threads": 1, "interop_threads": 1, "flush_denormals": False, **engine},
        features=os.path.join(operations._workdir, "features"),
        calibration=None,
        reference=None,
        instruction_sets=[],
        cache=None,
        keep=False,
    )


def measure(operations, leader_s):
    rule = StoppingRule(min_passes=2, max_passes=2, leader_s=leader_s)
    point = {"batch_size": 1, "padding": "longest"}
    return operations.measure(point=point, rule=dataclasses.asdict(rule))


@pytest.mark.parametrize("leader_s", [None, 3 * PASS_S])
def test_a_point_that_keeps_up_with_the_leader_is_measured(operations, leader_s):
    found = measure(operations, leader_s)
    assert isinstance(found, Measurement)
    assert found.whole
    assert len(found.passes) >= 2


def test_a_point_far_behind_the_leader_is_screened_out(operations):
    found = measure(operations, PASS_S / 10)
    assert isinstance(found, Screen)
    assert found.pass_s > PASS_S / 2


def test_a_pass_for_answers_alone_warms_nothing_up_before_it(operations, tmp_path):
    ran = []
    call = operations._opened.prepared.call
    counting = Prepared(call=lambda batch: ran.append(batch.shape) or call(batch))
    operations._opened = dataclasses.replace(operations._opened, prepared=counting)
    point = {"batch_size": 1, "padding": "longest"}
    found = operations.measure(point=point, rule=dataclasses.asdict(ANSWERS))
    assert len(ran) == ROWS
    assert found.whole
    assert (tmp_path / "outputs.npz").exists()
    assert operations._history.last_point == Config.of(point)  # the process is warm


@pytest.mark.parametrize("error", [RuntimeError("no such kernel"), ValueError("odd shapes")])
def test_what_a_library_raises_for_a_model_is_unsupported_with_its_words(
    operations, monkeypatch, error
):
    monkeypatch.setattr(SleepingEngine, "raises", error)
    with pytest.raises(TrialFailure) as caught:
        prepare(operations, mode="sleeping", precision="bf16")
    assert caught.value.kind == "unsupported"
    assert caught.value.detail == (
        f"mode=sleeping, precision=bf16 does not run this model: {describe(error)}"
    )


@pytest.mark.parametrize(
    ("engine", "error"),
    [
        ({"mode": "eager", "precision": "fp32"}, RuntimeError("a broken model")),
        ({"mode": "sleeping", "precision": "fp32"}, MemoryError()),
        ({"mode": "sleeping", "precision": "fp32"}, RuntimeError("not enough memory: 4 TB")),
        ({"mode": "sleeping", "precision": "fp32"}, TrialFailure("fallback", "another engine")),
    ],
)
def test_other_errors_of_preparing_keep_their_meaning(operations, monkeypatch, engine, error):
    both = {name: described(name) for name in ("sleeping", "eager")}
    monkeypatch.setattr(engines, "ENGINES", both)
    monkeypatch.setattr(SleepingEngine, "raises", error)
    with pytest.raises(type(error)) as caught:
        prepare(operations, **engine)
    assert caught.value is error


def test_an_error_inside_torchscript_is_described_by_its_last_line():
    error = RuntimeError(
        "The following operation failed in the TorchScript interpreter.\n"
        "Traceback of TorchScript (most recent call last):\n  graph code\n"
        "RuntimeError: expected scalar type Float but found BFloat16\n"
    )
    assert describe(error) == "RuntimeError: expected scalar type Float but found BFloat16"
