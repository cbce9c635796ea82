"""Every engine in a real worker on the embedded model: one suite that each must pass."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from engine_bench import HOST, ONE_PASS, SOURCE, TASK, Bench, config

from autotune import demo
from autotune.commands.search.saved import engine_files, save_engine
from autotune.driver.command import worker_commands
from autotune.driver.forkserver import ForkServers, modeling_modules
from autotune.shared.engines import engine_named
from autotune.shared.errors import ModelError
from autotune.shared.stopping import StoppingRule, continued, remaining_rule
from autotune.store.folder import RunFolder
from autotune.testing import check_outputs

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    with ForkServers(folder, memory_bytes=HOST.memory_bytes) as fork_servers:
        found = Bench(tmp_path_factory.mktemp("engines"), fork_servers=fork_servers)
        fork_servers.preload(modeling_modules(found.workload.facts.model_type))
        yield found


@pytest.fixture
def runner(bench, tmp_path):
    running = bench.runner(tmp_path)
    yield running
    running.close()


@pytest.fixture(scope="module")
def reference(bench, tmp_path_factory):
    running = bench.runner(tmp_path_factory.mktemp("reference"))
    outcome = running.run(config(), ONE_PASS)
    running.close()
    assert outcome.failure is None, outcome.log
    return outcome.outputs


ONE_A_MODE = {
    ("eager", "int8_dynamic"): {},
    ("jit", "bf16"): {},
    ("ipex", "bf16"): {},
    ("ipex_jit", "fp32"): {},
    ("inductor", "fp32"): {},
    ("onnxruntime", "int8_dynamic"): {},
    ("openvino", "int8_static"): {"int8_rest": "bf16"},
}
"""The rows that `make test` runs; `make test-full` runs them all."""
ENGINES = [
    pytest.param(
        {"mode": mode, "precision": precision, **extra},
        id="-".join([mode, precision, *(f"{k}={v}" for k, v in extra.items())]),
        marks=() if ONE_A_MODE.get((mode, precision)) == extra else pytest.mark.full,
    )
    for mode, precision, extra in [
        ("eager", "fp32", {"attention": "eager"}),
        ("eager", "fp32", {"linear": "onednn"}),
        ("eager", "fp32", {"linear": "onednn_fused"}),
        ("eager", "bf16_matmul", {}),
        ("eager", "bf16", {}),
        ("eager", "bf16", {"bf16_method": "full"}),
        ("eager", "bf16", {"linear": "onednn"}),
        ("eager", "int8_dynamic", {}),
        ("jit", "fp32", {}),
        ("jit", "fp32", {"linear": "onednn"}),
        ("jit", "bf16", {"linear": "onednn_fused", "bf16_method": "full"}),
        ("jit", "bf16", {}),
        ("jit", "bf16", {"bf16_method": "full"}),
        ("jit", "int8_dynamic", {}),
        ("jit", "int8_dynamic", {"int8_weights": "per_tensor"}),
        ("ipex", "fp32", {}),
        ("ipex", "fp32", {"auto_kernel_selection": True}),
        ("ipex", "bf16", {}),
        ("ipex_jit", "fp32", {}),
        ("ipex_jit", "bf16", {}),
        ("ipex_jit", "int8_dynamic", {}),
        ("ipex_jit", "int8_static", {}),
        ("ipex_jit", "int8_static", {"int8_rest": "bf16"}),
        ("inductor", "fp32", {}),
        ("inductor", "bf16", {"bf16_method": "full"}),
        ("inductor", "int8_static", {}),
        ("onnxruntime", "fp32", {}),
        ("onnxruntime", "int8_dynamic", {}),
        ("openvino", "fp32", {}),
        ("openvino", "bf16", {}),
        ("openvino", "int8_static", {}),
        ("openvino", "int8_static", {"int8_rest": "bf16"}),
        ("zentorch", "fp32", {}),
    ]
]


def skip_unless_available(bench, knobs):
    offered = bench.stacks["default"].modes[knobs["mode"]]
    for precision in (knobs["precision"], knobs.get("int8_rest", "fp32")):
        if offered[precision] is not None:
            pytest.skip(offered[precision])


@pytest.mark.parametrize("knobs", ENGINES)
def test_engine_gives_the_logits_of_eager(knobs, bench, runner, reference):
    skip_unless_available(bench, knobs)
    reason = check_outputs(bench, runner, reference, knobs)
    if reason is not None:
        pytest.skip(reason)
    if knobs["mode"] == "inductor":
        compiled = bench.folder.cache / "default" / "inductor"
        assert any(compiled.rglob("*.so")), "what it compiles does not stay in the run"


@pytest.mark.full
def test_inductor_keeps_a_package_that_answers_as_what_it_compiles(bench, runner, tmp_path):
    knobs = {"mode": "inductor", "precision": "bf16", "bf16_method": "full"}
    skip_unless_available(bench, knobs)
    compiled = runner.run(config(**knobs), ONE_PASS)
    assert compiled.failure is None, compiled.log
    folder = RunFolder(tmp_path)
    kept = save_engine(
        config(**knobs),
        folder=folder,
        host=HOST,
        found=bench.stacks,
        inputs=bench.inputs,
        expected=bench.workload.expected,
        timeout_s=600,
    )
    assert kept["kept"], kept
    assert min(kept["prepare_s"], kept["prepare_from_kept_s"]) > 0
    assert [path.suffix for path in engine_files(folder)] == [".pt2"]
    inputs = replace(bench.inputs, cache=str(folder.engine))
    packaged = bench.runner(tmp_path / "again", inputs=inputs).run(config(**knobs), ONE_PASS)
    assert packaged.measurement.effective["ahead_of_time"]
    assert packaged.measurement.outputs_digest == compiled.measurement.outputs_digest


@pytest.mark.full
def test_ipex_calibrates_once_for_all_processes_of_a_run(bench, runner, tmp_path):
    knobs = {"mode": "ipex_jit", "precision": "int8_static", "int8_rest": "bf16"}
    skip_unless_available(bench, knobs)
    inputs = replace(bench.inputs, cache=str(tmp_path / "cache"))
    digests = set()
    for process in ("calibrates", "reads"):
        other = bench.runner(tmp_path / process, inputs=inputs)
        outcome = other.run(config(**knobs), ONE_PASS)
        other.close()
        assert outcome.failure is None, outcome.log
        digests.add(outcome.measurement.outputs_digest)
        (kept,) = (tmp_path / "cache" / "default").iterdir()
        inputs = replace(inputs, calibration=None)  # there is nothing left to calibrate on
    assert kept.suffix == ".json"
    assert len(digests) == 1


@pytest.mark.parametrize(
    "knobs",
    [
        {"mode": "eager", "precision": "bf16"},
        pytest.param({"mode": "ipex_jit", "precision": "fp32"}, marks=pytest.mark.full),
        {"mode": "openvino", "precision": "fp32"},
        pytest.param({"mode": "onnxruntime", "precision": "fp32"}, marks=pytest.mark.full),
    ],
    ids=lambda knobs: f"{knobs['mode']}-{knobs['precision']}",
)
def test_a_forked_worker_gives_the_answers_of_a_fresh_one(knobs, bench, runner, tmp_path):
    skip_unless_available(bench, knobs)
    forked = runner.run(config(**knobs), ONE_PASS)
    other = bench.runner(tmp_path / "fresh", fresh=True)
    fresh = other.run(config(**knobs), ONE_PASS)
    other.close()
    assert forked.failure is None, forked.log
    one, two = fresh.measurement, forked.measurement
    assert two.outputs_digest == one.outputs_digest
    changing = {"released_s", "forked", "huge_pages"}
    if engine_named(knobs["mode"]).exports:
        changing.add("openmp")  # torch's, loaded if the fork server imported torch
    assert {k: v for k, v in two.effective.items() if k not in changing} == {
        k: v for k, v in one.effective.items() if k not in changing
    }
    assert (one.effective["forked"], two.effective["forked"]) == (False, True)


def test_points_share_a_session_and_engines_do_not(runner):
    pids = []
    for knobs in ({"batch_size": 1}, {"batch_size": 2}, {"attention": "eager"}):
        assert runner.run(config(**knobs), ONE_PASS).failure is None
        pids.append(runner.open_sessions[-1].workers[0].pid)
    assert pids[0] == pids[1] != pids[2]


def test_an_engine_that_cannot_run_is_a_typed_failure(runner):
    outcome = runner.run(config(mode="jit", precision="int4"), ONE_PASS)
    assert outcome.failure.kind == "unsupported"
    outcome = runner.run(config(mode="warp"), ONE_PASS)
    assert outcome.failure.kind == "unsupported"
    assert "mode must be one of" in outcome.failure.detail


def test_more_threads_than_cpus_is_a_fallback_failure(runner, monkeypatch):
    """A worker that is given fewer CPUs than threads must not be measured as if it had them."""

    def masked(*arguments):
        return tuple(
            replace(c, argv=(*c.argv, "--cpus", str(HOST.allowed[0])))
            for c in worker_commands(*arguments)
        )

    monkeypatch.setattr("autotune.driver.runner.worker_commands", masked)
    outcome = runner.run(config(threads=2), ONE_PASS)
    assert outcome.failure.kind == "fallback"
    assert "2 threads" in outcome.failure.detail


MODEL_THAT_CANNOT_BE_TRACED = """
from pathlib import Path
import torch
from autotune.shared.axes import InputArray
from autotune.shared.records import ModelSource
from autotune.worker.batches import Batch
from autotune.shared.errors import TrialFailure
from autotune.worker.engines.jit import trace
from autotune.worker.engines.base import Material
from autotune.worker.engines.torch_model import Positional, Runnable
import numpy as np

class Model(torch.nn.Module):
    def forward(self, attention_mask):
        if {body}
def batch(rows, width):
    mask = np.ones((rows, width), np.int64)
    return Batch({{"attention_mask": mask}}, mask.astype(bool))
try:
    samples = [batch(2, 4), batch(1, 3), batch(3, 7)]
    source = ModelSource(path="", head="", outputs={{"y": "batch"}})
    material = Material(
        source=source, arrays=(InputArray(name="attention_mask"),), samples=samples,
        calibration=(), threads=1,
        instruction_sets=frozenset(), cache=Path(),
    )
    model = Positional(Model(), material.inputs, material.outputs)
    trace(Runnable(model, material.inputs), material, 1e-3)
except TrialFailure as failure:
    print(failure)
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("True: raise RuntimeError('the words of the tracer')", "fallback: .*the words of the tr"),
        (
            "attention_mask.shape[0] == 2: return {'y': attention_mask.float() * 2}\n"
            "        return {'y': attention_mask.float()}",
            "inaccurate: differs from eager",
        ),
        (
            "True: return {'y': torch.ones(attention_mask.shape[0], 4)}",
            "",  # constant in the batch: legal, and equal
        ),
    ],
)
def test_tracing_that_fails_or_does_not_generalise_is_seen(body, words, tmp_path):
    code = MODEL_THAT_CANNOT_BE_TRACED.format(body=body)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert re.search(words, done.stdout), (done.stdout, done.stderr)
    assert bool(words) == bool(done.stdout.strip())


@pytest.mark.full
def test_the_reference_reads_the_published_figures(tmp_path):
    """F1 54.48, EM 43.30 on all 194 questions, as demo/NOTICE.md says."""
    whole = Bench(tmp_path / "run", rows=0)
    running = whole.runner(tmp_path / "work")
    outcome = running.run(config(padding="length_sorted", batch_size=8), StoppingRule(min_passes=1))
    running.close()
    assert outcome.failure is None, outcome.log
    rows, features = whole.workload.rows, whole.workload.features
    metrics = TASK.score(rows, TASK.decode(rows, features, outcome.outputs))
    assert {name: round(value, 2) for name, value in metrics.items()} == {
        "f1": 54.48,
        "exact_match": 43.30,
    }


def test_an_engine_meets_shapes_in_a_first_pass_and_goes_on_warm(runner):
    case = config(mode="openvino", batch_size=2)
    outcome = runner.run(case, StoppingRule(rung="first"))
    assert outcome.failure is None, outcome.log
    first = outcome.measurement
    (cold,) = first.passes
    assert cold.cold
    assert 0 <= cold.meeting_s < cold.total_s
    rule = StoppingRule(min_passes=2, max_passes=2, half_width=0.0, budget_s=99.0)
    missing = remaining_rule(first, rule)
    more = runner.run(case, missing).measurement
    assert len(more.passes) >= 2  # more where the host disturbed some
    assert not any(p.cold for p in more.passes)
    assert more.phases_s["prepare"] == first.phases_s["prepare"]  # the same session
    both = continued(first, more)
    assert cold in both.passes
    assert cold not in both.counted
    assert both.outputs_repeatable
    other = runner.run(config(mode="openvino", batch_size=4), missing)
    assert other.failure.kind == "protocol"
    assert "needs the point that was measured last" in other.failure.detail


def test_long_contexts_are_cut_into_overlapping_windows(tmp_path):
    found = Bench(tmp_path / "run", rows=4, max_seq_length=64, doc_stride=16).workload
    assert len(found.features.lengths) > 4
    assert set(found.features.example) == {0, 1, 2, 3}
    assert found.features.lengths.max() <= 64


def broken(tmp_path, change):
    copy = tmp_path / "model"
    shutil.copytree(demo.MODEL, copy)
    change(copy)
    return replace(SOURCE, path=str(copy))


def masked_language_model(folder):
    settings = json.loads((folder / "config.json").read_text())
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for name in [n for n in weights if n.startswith("qa_outputs")]:
        del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    settings["architectures"] = ["BertForMaskedLM"]
    (folder / "config.json").write_text(json.dumps(settings))


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (masked_language_model, "no trained head for AutoModelForQuestionAnswering"),
        (pickled, "no model.safetensors; pickled weights can run code"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "cannot be loaded"),
    ],
)
def test_models_that_do_not_fit_are_refused_with_the_next_step(tmp_path, change, message):
    source = broken(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        Bench(tmp_path / "run", source=source)
    assert not (tmp_path / "owned").exists()


def test_a_window_longer_than_the_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="at most the model's 512 positions"):
        Bench(tmp_path / "run", max_seq_length=600)
