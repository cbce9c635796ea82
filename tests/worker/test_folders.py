"""Folders that hold no model for this tool are named as what they are, with the remedy."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.model


@pytest.fixture
def refusal():
    pytest.importorskip("transformers")
    from autotune.worker.encode import refusal_of_folder

    return refusal_of_folder


def folder(path, *names, config=None):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("{}")
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


MODEL = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("model-q4.gguf",), ["GGUF", "pass the original model"]),
        (
            ("adapter_config.json", "adapter_model.safetensors"),
            ["LoRA adapter", "merge_and_unload"],
        ),
        (("modules.json", "0_Transformer/config.json"), ["--model", "0_Transformer"]),
        (("config.json", "tokenizer.json", "model.onnx"), ["ONNX", "torch model"]),
        (("config.json", "tokenizer.json", "onnx/model.onnx"), ["ONNX", "torch model"]),
        (("config.json", "tokenizer.json", "tf_model.h5"), ["TensorFlow", "from_tf=True"]),
        (
            ("config.json", "tokenizer.json", "openvino_model.xml", "openvino_model.bin"),
            ["OpenVINO", "torch model"],
        ),
        (("config.json", "tokenizer.json"), ["no weights"]),
        (("config.json", "model.safetensors"), ["no tokenizer files"]),
        ((), ["no config.json"]),
    ],
)
def test_it_is_named_with_the_remedy_and_never_called_pickled(refusal, names, words, tmp_path):
    found = refusal(folder(tmp_path, *names), allow_pickle=False)
    assert found is not None
    assert "\n" not in found
    assert all(word in found for word in words), found
    assert "pickle" not in found


def test_pickled_weights_are_refused_unless_allowed(refusal, tmp_path):
    made = folder(tmp_path, "config.json", "tokenizer.json", "pytorch_model.bin")
    assert "pass --allow-pickle" in refusal(made, allow_pickle=False)
    assert refusal(made, allow_pickle=True) is None


def test_weights_quantised_elsewhere_are_refused(refusal, tmp_path):
    config = {"quantization_config": {"quant_method": "gptq"}}
    made = folder(tmp_path, "model.safetensors", "tokenizer.json", config=config)
    assert "quantised by gptq" in refusal(made, allow_pickle=False)


@pytest.mark.parametrize("more", [(), ("model.onnx",), ("pytorch_model.bin",), ("tf_model.h5",)])
def test_a_whole_model_is_accepted_whatever_lies_beside_it(refusal, more, tmp_path):
    assert refusal(folder(tmp_path, *MODEL, *more), allow_pickle=False) is None
