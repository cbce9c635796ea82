"""Images become inputs as transformers' own processor makes them, and engines answer as eager."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from engine_alone import run_alone
from families import IMAGE_MODELS, build_image_model, draw_images

from autotune.shared.errors import TrialFailure
from autotune.tasks import task_named
from autotune.worker.batches import Features

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]

TASK = task_named("image-classification")
LABELS = ("cat", "dog", "eel")


@pytest.fixture
def pillow():
    return pytest.importorskip("PIL.Image")


def encoded(model, paths, where):
    from autotune.worker.work import work_named

    where.mkdir()
    rows = where / "rows.json"
    rows.write_text(json.dumps({"image": [str(path) for path in paths]}))
    source = TASK.source(str(model))
    sets = [{"rows_file": str(rows), "folder": str(where)}]
    facts = work_named(source.work).encode(source, sets=sets)
    return Features.load(str(where)), facts, source


def alone(model, paths):
    """The logits of each image alone, by transformers' pipeline of processor and model."""
    import PIL.Image
    import torch
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(model, use_fast=False)
    classifier = transformers.AutoModelForImageClassification.from_pretrained(model).eval()
    found = []
    for path in paths:
        inputs = processor(PIL.Image.open(path).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            found.append(classifier(**inputs).logits[0].numpy())
    return np.array(found)


@pytest.mark.parametrize("name", IMAGE_MODELS)
@pytest.mark.usefixtures("pillow")
def test_a_batch_of_images_gets_the_answers_of_each_image_alone(name, tmp_path):
    from autotune.worker.engines import torch_model

    model = build_image_model(tmp_path / "model", name, LABELS)
    paths = sorted(draw_images(tmp_path / "data", LABELS, 2).rglob("*.png"))
    features, facts, source = encoded(model, paths, tmp_path / "features")
    (declared,) = features.arrays
    assert declared.axes == ("batch", "channels", "image_height", "image_width")
    assert (declared.name, declared.dtype) == ("pixel_values", "float32")
    assert (facts.labels, facts.problem, facts.max_positions) == (LABELS, "single_label", None)
    assert facts.work[0] > 0
    assert facts.work[1:] == (0, 0)
    assert features.lengths.tolist() == [1] * 6
    loaded, _ = torch_model.load(source)
    inputs = features.model_inputs
    run = torch_model.Runnable(torch_model.Positional(loaded, inputs, ("logits",)), inputs)
    (found,) = run(features.batch(range(6), 1))
    np.testing.assert_allclose(found, alone(model, paths), atol=1e-4)


def test_an_image_that_its_exif_data_turns_is_upright(pillow, tmp_path):
    model = build_image_model(tmp_path / "model", "vit", LABELS)
    drawn = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    upright = pillow.fromarray(drawn)
    upright.save(tmp_path / "upright.png")
    exif = pillow.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, to the right
    upright.rotate(90).save(tmp_path / "turned.png", exif=exif)
    paths = [tmp_path / "upright.png", tmp_path / "turned.png"]
    features, _, _ = encoded(model, paths, tmp_path / "features")
    first, second = features.values["pixel_values"]
    np.testing.assert_array_equal(first, second)


@pytest.mark.usefixtures("pillow")
def test_images_in_gray_and_with_transparency_are_read(pillow, tmp_path):
    model = build_image_model(tmp_path / "model", "vit", LABELS)
    for mode in ("L", "RGBA", "P", "1"):
        pillow.new(mode, (9, 7)).save(tmp_path / f"{mode}.png")
    features, _, _ = encoded(model, sorted(tmp_path.glob("*.png")), tmp_path / "features")
    assert features.values["pixel_values"].shape == (4, 3, 32, 32)


@pytest.mark.usefixtures("pillow")
def test_a_file_that_is_no_image_is_named(tmp_path):
    model = build_image_model(tmp_path / "model", "vit", LABELS)
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(TrialFailure, match=r"bad\.png cannot be read as an image: ") as caught:
        encoded(model, [tmp_path / "bad.png"], tmp_path / "features")
    assert "\n" not in caught.value.detail


@pytest.mark.usefixtures("pillow")
def test_a_model_without_its_processor_is_refused(tmp_path):
    model = build_image_model(tmp_path / "model", "vit", LABELS)
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(TrialFailure, match=r"has no preprocessor_config\.json or processor_"):
        encoded(model, [], tmp_path / "features")


def test_without_pillow_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(TrialFailure, match=r"needs pillow .*: pip install 'autotune"):
        encoded(tmp_path, [], tmp_path / "features")


COMPARE = """
import json, pathlib, sys
from engine_alone import difference
from test_images import alone, encoded

folder, options = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
paths = sorted((folder / "data").rglob("*.png"))
features, facts, source = encoded(folder / "model", paths, folder / "features")
expected = alone(folder / "model", paths)[:3]
print(difference(features, source, folder, options, attention=facts.attention, width=1,
                 expected=expected))
"""
ENGINES = [  # engine knobs, and how far a logit may be off, relative to the largest one
    ({"mode": "jit", "precision": "fp32"}, 1e-4),
    ({"mode": "jit", "precision": "bf16", "bf16_method": "full"}, 0.1),
    ({"mode": "eager", "precision": "int8_dynamic"}, 0.2),
    ({"mode": "ipex", "precision": "bf16"}, 0.1),
    ({"mode": "ipex_jit", "precision": "fp32"}, 1e-4),
    ({"mode": "onnxruntime", "precision": "fp32"}, 1e-3),
    ({"mode": "openvino", "precision": "fp32"}, 1e-3),
    ({"mode": "openvino", "precision": "int8_static"}, 0.5),  # few random convolutions
    ({"mode": "inductor", "precision": "fp32"}, 1e-3),
]


@pytest.mark.full
@pytest.mark.usefixtures("pillow")
@pytest.mark.parametrize(("options", "limit"), ENGINES, ids=str)
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_every_engine_answers_as_eager(name, options, limit, tmp_path):
    build_image_model(tmp_path / "model", name, LABELS)
    draw_images(tmp_path / "data", LABELS, 3)
    assert run_alone(COMPARE, tmp_path, options) <= limit
