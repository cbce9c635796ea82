"""The share of a model's work that runs as asked, against numbers worked out by hand.

A model of 2 layers, 64 wide, with 128 wide feed-forward layers (BERT) or 256 (GPT-2), and 2 labels:

- BERT, a row: pooler 2 x 64 x 64 and classifier 2 x 64 x 2 = 8,448 operations;
  a token: 2 layers x 2 x (4 x 64 x 64 + 2 x 64 x 128) = 131,072;
  a token with each other token (attention): 2 layers x 2 products x 2 x 64 = 512.
- GPT-2, a token: 2 layers x 2 x (4 x 64 x 64 + 2 x 64 x 256) + 2 x 64 x 2 (score) = 196,864.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from families import build

from autotune.shared.engines import engine_named
from autotune.shared.errors import TrialFailure
from autotune.shared.records import ModelSource
from autotune.worker.batches import Batch
from autotune.worker.engines.base import Material

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]

BERT_WORK, GPT2_WORK = (8_448, 131_072, 512), (0, 196_864, 512)
ROWS, WIDTH = 4, 32
INPUTS = ("input_ids", "attention_mask")
PACKAGES = {
    "ipex": ["intel_extension_for_pytorch"],
    "inductor": [],
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
    if mode == "inductor":  # it counts what its process compiled, and has one of its own elsewhere
        import torch._dynamo

        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
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


@pytest.fixture
def chosen_precision():
    """Lets a test choose the precision inside float32 products, and undoes it."""
    import torch

    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("mode", ["eager", "jit"])
def test_float32_products_that_stay_float32_are_no_bf16_matmul(mode, tmp_path, chosen_precision):
    """torch takes the setting on every CPU, and ignores it where there is no AMX."""
    from autotune.host import detect

    found = material(build(tmp_path, "bert", "text-classification"), BERT_WORK)
    if "amx_bf16" in detect().instruction_sets:
        assert run(mode, "bf16_matmul", found)["bf16_share"] > 0.5
    else:
        with pytest.raises(TrialFailure) as caught:
            run(mode, "bf16_matmul", found)
        assert caught.value.kind == "fallback"
        assert "precision=bf16_matmul runs 0.0%" in caught.value.detail


def test_layers_that_torch_passes_whole_are_counted_too(tmp_path):
    """Under inference_mode a Linear is one operator, which is no product by its name."""
    import torch

    from autotune.worker.flops import count_work

    layer, row = torch.nn.Linear(8, 4), torch.ones(2, 8)

    def run():
        with torch.inference_mode():
            return layer(row)

    assert count_work(run).by_type == count_work(lambda: layer(row)).by_type == {"fp32": 128}


def test_a_float32_product_that_rounds_to_bf16_is_seen_by_its_numbers(chosen_precision):
    import torch

    from autotune.worker.flops import runs_in_bf16

    a, b = torch.rand(8, 16), torch.rand(16, 4)

    def rounding():
        if torch.get_float32_matmul_precision() == "medium":
            return (a.bfloat16() @ b.bfloat16()).float()
        return a @ b

    chosen_precision("medium")
    assert runs_in_bf16(rounding, rounding())
    assert not runs_in_bf16(
        lambda: (a.double() @ b.double()).float(), (a.double() @ b.double()).float()
    )
    assert torch.get_float32_matmul_precision() == "medium"
    chosen_precision("highest")
    assert not runs_in_bf16(rounding, rounding())


@pytest.mark.parametrize(
    ("sets", "offered"),
    [({"avx2", "avx512_bf16"}, False), ({"avx2", "avx512_bf16", "amx_bf16"}, True)],
)
def test_bf16_matmul_is_offered_with_amx_alone(sets, offered):
    from autotune.worker.engines.base import Environment, unsupported_precision

    environment = Environment(instruction_sets=frozenset(sets), versions={}, ipex=None)
    refusal = unsupported_precision("bf16_matmul", environment)
    assert (refusal is None) == offered
    assert offered or "AMX-BF16" in refusal


@pytest.mark.parametrize("precision", ["bf16", "int8_dynamic", "int8_static"])
@pytest.mark.parametrize(
    "mode",
    [
        "ipex",
        "ipex_jit",
        "openvino",
        "onnxruntime",
        pytest.param("inductor", marks=pytest.mark.full),
    ],
)
def test_every_engine_reports_the_share_of_what_it_compiled(mode, precision, tmp_path):
    from autotune.worker.engines.share import MIN_SHARE

    if precision not in engine_named(mode).precision_names:
        pytest.skip(f"{mode} does not offer {precision}")
    for package in PACKAGES[mode]:
        pytest.importorskip(package)
    found = material(build(tmp_path, "bert", "text-classification"), BERT_WORK)
    weights, whole = products(BERT_WORK)
    (share,) = (v for k, v in run(mode, precision, found).items() if k.endswith("_share"))
    # inductor makes int8 kernels of some quantised products only; it says of how many.
    least = MIN_SHARE if (mode, precision) == ("inductor", "int8_static") else weights / whole
    assert least - 1e-3 <= share <= 1.0


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


CACHING = ["gpt2", "llama", "xlnet", "t5"]
CACHING_TOO = ["qwen2", "mistral", "gemma", "gpt-neox", "bart"]


@pytest.mark.parametrize(
    "family", [*CACHING, *(pytest.param(name, marks=pytest.mark.full) for name in CACHING_TOO)]
)
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


@pytest.mark.parametrize("mode", ["ipex", "ipex_jit"])
@pytest.mark.parametrize("family", ["bert", "layoutlm"])
def test_ipex_gets_each_input_by_its_name(mode, family, tmp_path):
    """LayoutLM's `forward` takes the boxes of words second and the mask third.

    The tokenizer lists the token types before the mask. By position one would be read as another.
    """
    pytest.importorskip("intel_extension_for_pytorch")
    from autotune.worker.engines import engine_class, torch_model

    folder = build(tmp_path, family, "text-classification")
    names = ("input_ids", "token_type_ids", "attention_mask")

    def typed(batch):
        types, mask = np.zeros_like(batch["input_ids"]), batch["attention_mask"].copy()
        types[:, 3:], mask[:, -1] = 1, 0
        arrays = {**batch, "token_type_ids": types, "attention_mask": mask}
        return Batch(arrays, mask.astype(bool))

    found = material(folder, inputs=names)
    found = replace(found, samples=[typed(batch) for batch in found.samples])
    options = {"mode": mode, "precision": "fp32", "attention": "eager", "linear": "torch"}
    call = engine_class(mode)(options).prepare(found).call
    model, _ = torch_model.load(found.source, "eager")
    import torch

    for batch in found.samples:
        with torch.no_grad():
            expected = model(**{name: torch.from_numpy(batch[name]) for name in names}).logits
        np.testing.assert_allclose(call(batch)[0], expected.numpy(), atol=1e-4)


@pytest.mark.full
def test_openvino_converts_models_whose_trace_is_never_made_twice_alike(tmp_path):
    """OpenVINO's own trace of ESM and BigBird fails its sanity checks. Ours is compared instead."""
    pytest.importorskip("openvino")
    from autotune.worker.engines import engine_class, torch_model

    for family in ("esm", "bigbird"):
        found = material(build(tmp_path / family, family, "text-classification"))
        options = {"mode": "openvino", "precision": "fp32", "attention": "eager"}
        call = engine_class("openvino")(options).prepare(found).call
        model, _ = torch_model.load(found.source, "eager")
        import torch

        for batch in found.samples:
            with torch.no_grad():
                tensors = {name: torch.from_numpy(batch[name]) for name in INPUTS}
                expected = model(**tensors).logits
            np.testing.assert_allclose(call(batch)[0], expected.numpy(), atol=1e-3)


@pytest.mark.full
def test_inductor_quantises_embeddings_although_nobody_reads_their_pooler(tmp_path):
    """The quantiser failed on a layer whose result is not used."""
    folder = build(tmp_path, "bert", "feature-extraction")
    found = material(folder)
    source = ModelSource(path=str(folder), head="AutoModel", outputs={"last_hidden_state": "token"})
    effective = run("inductor", "int8_static", replace(found, source=source))
    assert effective["int8_share"] > 0.5
