"""A question-answering BERT of two narrow layers, for what does not depend on the model's size.

Its weights are random, made with numpy alone; its tokenizer is the demo's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from autotune import demo

HIDDEN, LAYERS, HEADS, INTERMEDIATE = 32, 2, 2, 64


def make_small_model(folder: Path) -> Path:
    """Write the model into `folder`, which must not exist."""
    shutil.copytree(demo.MODEL, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights(config), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def weights(config: dict) -> dict[str, np.ndarray]:
    """Random parameters by name, as BertForQuestionAnswering has them."""
    rng = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"] = rng.normal(0, 0.3, (rows, columns)).astype(np.float32)
        found[f"{name}.bias"] = np.zeros(rows, np.float32)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = np.ones(HIDDEN, np.float32)
        found[f"{name}.bias"] = np.zeros(HIDDEN, np.float32)

    for name, count in (
        ("word", config["vocab_size"]),
        ("position", config["max_position_embeddings"]),
        ("token_type", config["type_vocab_size"]),
    ):
        table = rng.normal(0, 1, (count, HIDDEN)).astype(np.float32)
        found[f"bert.embeddings.{name}_embeddings.weight"] = table
    norm("bert.embeddings.LayerNorm")
    for layer in range(LAYERS):
        place = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{place}.attention.self.{part}", HIDDEN, HIDDEN)
        linear(f"{place}.attention.output.dense", HIDDEN, HIDDEN)
        norm(f"{place}.attention.output.LayerNorm")
        linear(f"{place}.intermediate.dense", INTERMEDIATE, HIDDEN)
        linear(f"{place}.output.dense", HIDDEN, INTERMEDIATE)
        norm(f"{place}.output.LayerNorm")
    linear("qa_outputs", 2, HIDDEN)
    return found
