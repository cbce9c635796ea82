"""The share of a model's work that runs as asked, against numbers worked out by hand.

A model of 2 layers, 64 wide, with 128 wide feed-forward layers (BERT) or 256 (GPT-2), and 2 labels:

- BERT, a row: pooler 2 x 64 x 64 and classifier 2 x 64 x 2 = 8,448 operations;
  a token: 2 layers x 2 x (4 x 64 x 64 + 2 x 64 x 128) = 131,072;
  a token with each other token (attention): 2 layers x 2 products x 2 x 64 = 512.
- GPT-2, a token: 2 layers x 2 x (4 x 64 x 64 + 2 x 64 x 256) + 2 x 64 x 2 (score) = 196,864.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from families import build

from autotune.shared.errors import TrialFailure
from autotune.shared.records import ModelSource
from autotune.worker.batches import Batch
from autotune.worker.engines.base import Material

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]

BERT_WORK, GPT2_WORK = (8_448, 131_072, 512), (0, 196_864, 512)
ROWS, WIDTH = 4, 32
INPUTS = ("input_ids", "attention_mask")
PACKAGES = {
    "ipex_jit": ["intel_extension_for_pytorch"],
    "openvino": ["openvino", "nncf"],
    "onnxruntime": ["onnxruntime"],
}


def material(folder, work=None, inputs=INPUTS):
    rng = np.random.default_rng(0)

    def batch(rows, width):
        ids = rng.integers(6, 40, (rows, width))
        mask = np.ones((rows, width), np.int64)
        return Batch({"input_ids": ids, "attention_mask": mask}, mask.astype(bool))

    from autotune.worker.inputs import text_arrays

    return Material(
        source=ModelSource(
            path=str(folder),
            head="AutoModelForSequenceClassification",
            outputs={"logits": "batch"},
        ),
        arrays=text_arrays(inputs),
        samples=[batch(ROWS, WIDTH), batch(1, 5)],
        calibration=[batch(1, 9)] * 2,
        threads=1,
        instruction_sets=frozenset(),
        cache=Path(folder) / "cache",
        work=work,
    )


def products(work):
    """Operations of the products with weights in the sample, and of all products."""
    c, a, b = work
    weights = ROWS * (c + a * WIDTH)
    return weights, weights + ROWS * b * WIDTH**2


@pytest.mark.parametrize(("family", "work"), [("bert", BERT_WORK), ("gpt2", GPT2_WORK)])
def test_the_work_is_what_the_layers_say(family, work, tmp_path):
    from autotune.worker.engines import torch_model
    from autotune.worker.flops import fit_work_polynomial
    from autotune.worker.inputs import text_row

    found = material(build(tmp_path, family, "text-classification"))
    model, _ = torch_model.load(found.source)
    assert fit_work_polynomial(model, partial(text_row, model, INPUTS), 64) == pytest.approx(
        work, abs=1
    )


def test_a_work_that_is_no_polynomial_is_none():
    import torch

    from autotune.worker.flops import fit_work_polynomial
    from autotune.worker.inputs import text_row

    class Steps(torch.nn.Module):
        """Pads every row to a multiple of 64 tokens."""

        config = type("Config", (), {"eos_token_id": None, "vocab_size": 9})

        def forward(self, input_ids):
            width = -(-input_ids.shape[1] // 64) * 64
            return torch.ones(width, 8) @ torch.ones(8, 8)

    make_row = partial(text_row, Steps(), ("input_ids",))
    assert fit_work_polynomial(Steps(), make_row, 48) is not None  # up to 64 it is constant
    assert fit_work_polynomial(Steps(), make_row, 100) is None


def run(mode, precision, found, **options):
    from autotune.worker.engines import engine_class

    defaults = {
        "mode": mode,
        "precision": precision,
        "attention": "sdpa",
        "linear": "torch",
        "bf16_method": "autocast",
        "int8_weights": "per_channel",
        "int8_rest": "fp32",
    }
    engine = engine_class(mode)({**defaults, **options})
    return engine.prepare(found).effective


@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize(("family", "work"), [("bert", BERT_WORK), ("gpt2", GPT2_WORK)])
def test_torch_reports_the_share_in_int8_and_through_onednn(mode, family, work, tmp_path):
    """GPT-2's layers are Conv1D: before they were converted, its share was 0.001."""
    found = material(build(tmp_path, family, "text-classification"), work)
    weights, whole = products(work)
    share = pytest.approx(weights / whole, abs=1e-3)
    assert run(mode, "int8_dynamic", found)["int8_share"] == share
    assert run(mode, "fp32", found, linear="onednn")["onednn_share"] == share
    assert run(mode, "bf16", found)["bf16_share"] == 1.0
    assert not any(name.endswith("_share") for name in run(mode, "fp32", found))


@pytest.mark.parametrize("precision", ["bf16", "int8_dynamic", "int8_static"])
@pytest.mark.parametrize("mode", ["ipex_jit", "openvino", "onnxruntime"])
def test_every_engine_reports_the_share_of_what_it_compiled(mode, precision, tmp_path):
    from autotune.worker.engines import engine_class

    if precision not in engine_class(mode).precisions:
        pytest.skip(f"{mode} does not offer {precision}")
    for package in PACKAGES[mode]:
        pytest.importorskip(package)
    found = material(build(tmp_path, "bert", "text-classification"), BERT_WORK)
    weights, whole = products(BERT_WORK)
    (share,) = (v for k, v in run(mode, precision, found).items() if k.endswith("_share"))
    assert weights / whole - 1e-3 <= share <= 1.0


@pytest.mark.parametrize(
    "options", [{"precision": "int8_dynamic"}, {"precision": "fp32", "linear": "onednn"}]
)
def test_a_model_whose_products_are_elsewhere_is_a_fallback(options, tmp_path):
    """SqueezeBERT computes with grouped convolutions, of which no engine makes int8."""
    found = material(build(tmp_path, "squeezebert", "text-classification"))
    with pytest.raises(TrialFailure, match=r"fallback: .* of this model's floating-point"):
        run("eager", found=found, attention="eager", **options)


def test_less_than_half_of_the_products_with_weights_is_a_fallback(tmp_path):
    from autotune.worker.engines.share import check_share

    found = material(tmp_path, BERT_WORK)
    weights, whole = products(BERT_WORK)
    assert check_share("x", "int8", weights / 2, whole, found) == {
        "int8_share": round(weights / 2 / whole, 4)
    }
    with pytest.raises(TrialFailure, match=r"fallback: x runs 44\.5% "):
        check_share("x", "int8", weights / 2 - 1, whole, found)


def test_t5_runs_in_int8(tmp_path):
    """It asks for the type of a layer's weight.

    By hand: encoder layers 4 x 64 x 64 + 2 x 64 x 128, decoder layers 8 x 64 x 64 + 2 x 64 x 128
    multiplications a token, two of each; a head of 64 x 64 + 64 x 2 a row; three attentions.
    """
    work = (8_448, 327_680, 1_536)
    found = material(build(tmp_path, "t5", "text-classification"), work)
    for batch in found.samples:
        batch["input_ids"][:, -1] = 2  # the end of text, which its classifier reads
    weights, whole = products(work)
    effective = run("eager", "int8_dynamic", found, attention="eager")
    assert effective["int8_share"] == pytest.approx(weights / whole, abs=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "xlnet", "t5"])
@pytest.mark.parametrize("mode", ["jit", "ipex_jit"])
def test_models_that_return_a_cache_are_traced_without_it(mode, family, tmp_path):
    """The trace takes the named outputs alone, and answers as the model: difference 0."""
    if mode == "ipex_jit":
        pytest.importorskip("intel_extension_for_pytorch")
    found = material(build(tmp_path, family, "text-classification"))
    for batch in found.samples:
        batch["input_ids"][:, -1] = 2
    effective = run(mode, "fp32", found, attention="eager")
    assert effective["trace_difference"] <= 1e-5
