"""Model folders that are something else than a model of transformers."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SENTENCE_SETTINGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names of the file that says how sentence-transformers reads texts. It takes the first one that
has settings."""
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")


def refusal_of_folder(
    folder: Path, *, allow_pickle: bool, reader: Sequence[str] = TOKENIZER_FILES
) -> str | None:
    """Why the files in a folder are no model for this, and the remedy. None if they may be one.

    `reader` are the files that say how rows become inputs, of which there must be one: those of the
    tokenizer. Only names of files are read, and two small JSON files: this runs before anything is
    loaded.
    """
    names = {path.name for path in folder.iterdir()}

    def has(*patterns: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns)

    if "adapter_config.json" in names and "config.json" not in names:
        base = read_json(folder / "adapter_config.json").get("base_model_name_or_path", "its base")
        return (
            f"{folder} is a LoRA adapter: merge it into {base} with peft's merge_and_unload(), "
            "save that model with its tokenizer, and pass --model with its folder"
        )
    if "config.json" not in names:
        if has("*.gguf"):
            return f"{folder} holds GGUF weights, which are llama.cpp's: pass the original model"
        inner = [path.parent for path in sorted(folder.glob("*/config.json"))]
        inner = [path for path in inner if "Transformer" in path.name] or inner
        if inner:
            return f"{folder} holds a model in a folder of its own: pass --model {inner[0]}"
        return f"{folder} has no config.json: pass the folder of a model that save_pretrained wrote"
    method = (read_json(folder / "config.json").get("quantization_config") or {}).get(
        "quant_method"
    )
    if method:
        return (
            f"{folder}: the weights are quantised by {method}, for other hardware or libraries: "
            "pass the float model that they were made from"
        )
    if not has("*.safetensors", "*.safetensors.index.json"):
        pickled = has("pytorch_model*.bin", "*.pt", "*.pth")
        if pickled and not allow_pickle:
            return (
                f"{folder} has no model.safetensors; pickled weights can run code while "
                "they load: convert them, or pass --allow-pickle if you trust their author"
            )
        if not pickled:
            kinds = (
                (
                    "TensorFlow",
                    has("tf_model*.h5"),
                    "from_pretrained(DIR, from_tf=True)",
                ),
                ("Flax", has("flax_model*.msgpack"), "from_pretrained(DIR, from_flax=True)"),
                ("OpenVINO", has("openvino_model*.xml"), ""),
                ("ONNX", has("*.onnx") or any(folder.glob("onnx/*.onnx")), ""),
            )
            for kind, found, call in kinds:
                if found:
                    remedy = (
                        f"convert them with {call} and save_pretrained()"
                        if call
                        else "pass the folder of the torch model that they were made from"
                    )
                    return f"{folder} has {kind} weights only, and none for torch: {remedy}"
            return f"{folder} has a config.json and no weights: copy model.safetensors there"
    if not has(*reader):
        if reader is not TOKENIZER_FILES:
            return (
                f"{folder} has no {' or '.join(reader)}: copy it there from the model that it was "
                "fine-tuned from"
            )
        return (
            f"{folder} has no tokenizer files: copy tokenizer.json, tokenizer_config.json and "
            "special_tokens_map.json there from the model that it was fine-tuned from"
        )
    return None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
