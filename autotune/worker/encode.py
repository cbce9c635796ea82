"""Rows of text become features, once for each workload, with the model's own tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.shared.errors import TrialFailure
from autotune.shared.records import ModelFacts, ModelSource
from autotune.worker.batches import FEATURES_FILE, META_FILE
from autotune.worker.engines import torch_model
from autotune.worker.flops import fit_work_polynomial
from autotune.worker.slim import transformers

UNLIMITED_TOKENS = 1_000_000
"""Limits from here on mean no limit: such tokenizers report a huge `model_max_length`."""
WEIGHT_FILES = ("*.safetensors", "*.bin")
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")


def _loading_advice(source: ModelSource, error: Exception) -> str:
    """Why transformers cannot load the model, and what to do about it, in one line."""
    text = " ".join(str(error).split())
    if os.path.isdir(source.path):
        if "safetensors" in text and not source.allow_pickle:
            return (
                f"{source.path} has no model.safetensors; pickled weights can run code while "
                "they load: convert them, or pass --allow-pickle if you trust their author"
            )
        return f"{source.path} cannot be loaded: {text[:300]}"
    if "trust_remote_code" in text:
        return (
            f"{source.path} needs its own code to load: pass --trust-remote-code to run that code"
        )
    if source.allow_pickle is False and "safetensors" in text:
        return f"{source.path} has no safetensors weights; pass --allow-pickle to load pickled ones"
    return (
        f"{source.path!r} is neither a local folder nor in the local cache, and could not be "
        "downloaded (the model hub is unreachable, or the model is private or misspelt): run "
        f"`hf download {source.path} --local-dir DIR` on a machine that reaches the hub, "
        "and pass --model DIR"
    )


def load_tokenizer(source: ModelSource) -> Any:
    """The fast tokenizer of the model. Raises TrialFailure `unsupported` if it has none."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    if not tokenizer.is_fast:
        raise TrialFailure(
            "unsupported",
            f"{source.path} has only a slow tokenizer, which reports no character offsets: "
            "save the model with a tokenizer.json",
        )
    return tokenizer


def _digest(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of `files`, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def model_digest(source: ModelSource) -> str:
    """SHA-256 over the files of configuration, tokenizer and weights.

    The model may be a local folder or in the local cache of the model hub.
    """
    folder = Path(source.path)
    if not folder.is_dir():
        found = transformers.utils.cached_file(source.path, "config.json", revision=source.revision)
        folder = Path(str(found)).parent
    files = {
        path
        for pattern in ("config.json", *TOKENIZER_FILES, *WEIGHT_FILES)
        for path in folder.glob(pattern)
    }
    return _digest(files)


def inspect_model(source: ModelSource) -> tuple[Any, ModelFacts]:
    """The tokenizer and the facts of a model that suits the task.

    Raises TrialFailure `unsupported`, with the remedy, if the model cannot be found or loaded, or
    if its checkpoint lacks weights of the head.
    """
    torch_model.silence_transformers()
    try:
        tokenizer = load_tokenizer(source)
        model, missing = torch_model.load(source)
    except (TrialFailure, MemoryError):
        raise
    except Exception as error:  # transformers and safetensors share no base class
        raise TrialFailure("unsupported", _loading_advice(source, error)) from error
    config = model.config
    # Checkpoints trained with some heads have no pooler. No task uses the pooler.
    missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        trained = ", ".join(config.architectures or ["unknown"])
        raise TrialFailure(
            "unsupported",
            f"{source.path} has no trained head for {source.head}: its checkpoint "
            f"({trained}) lacks {', '.join(missing[:3])}; pass a model fine-tuned for the task",
        )
    limits = [
        limit
        for limit in (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
        if limit and limit < UNLIMITED_TOKENS
    ]
    attention = str(config._attn_implementation)
    return tokenizer, ModelFacts(
        model_type=config.model_type,
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        attention=attention,
        attentions=("sdpa", "eager") if attention == "sdpa" else (attention,),
        max_positions=min(limits) if limits else None,
        digest=model_digest(source),
        labels=tuple(str(config.id2label[i]) for i in sorted(config.id2label or {})),
        problem=_problem(config),
    )


def _problem(config: Any) -> str:
    """What the labels of a classifier are, as transformers decides it for its loss.

    Raises TrialFailure `unsupported` for a model that predicts several numbers.
    """
    if config.problem_type == "multi_label_classification":
        return "multi_label"
    if config.num_labels == 1:
        return "regression"
    if config.problem_type == "regression":
        raise TrialFailure(
            "unsupported",
            f"the model predicts {config.num_labels} numbers for a row; pass one that predicts "
            "labels, or one number",
        )
    return "single_label"


def encode(
    source: ModelSource,
    *,
    sets: Sequence[Mapping[str, str]],
    max_seq_length: int,
    doc_stride: int | None,
    words: bool,
) -> ModelFacts:
    """Write the features of each set's `rows_file` into its `folder`. Returns the model's facts.

    A rows file is JSON: `{"text": [...], "text_pair": [...] or null, "counts": [...] or null}`.
    `counts` says how many texts each row has, if not one.

    - With `doc_stride`, `text_pair` is cut into windows that overlap by that many tokens. The
      features then have the character offsets of the window's tokens, shape (tokens, 2), and
      (-1, -1) for all other tokens.
    - With `words`, each text is a list of words. The features then have the index of each token's
      word, and -1 for tokens without a word.

    Raises TrialFailure `unsupported` for a model that does not suit the task (see `inspect_model`)
    or has fewer positions than `max_seq_length`.
    """
    tokenizer, facts = inspect_model(source)
    if facts.max_positions is not None and max_seq_length > facts.max_positions:
        raise TrialFailure(
            "unsupported",
            f"max_seq_length must be at most the model's {facts.max_positions} positions, "
            f"got {max_seq_length}; pass --max-seq-length {facts.max_positions}",
        )
    for row_set in sets:
        _encode_rows(
            tokenizer,
            rows_file=row_set["rows_file"],
            folder=row_set["folder"],
            max_seq_length=max_seq_length,
            doc_stride=doc_stride,
            words=words,
        )
    return replace(facts, work=fit_work_polynomial(source))


def _encode_rows(
    tokenizer: Any,
    *,
    rows_file: str,
    folder: str,
    max_seq_length: int,
    doc_stride: int | None,
    words: bool,
) -> None:
    """Write the features of one set and their metadata into `folder`, see `encode`."""
    with open(rows_file, encoding="utf-8") as file:
        rows = json.load(file)
    text, pair, counts = rows["text"], rows["text_pair"], rows.get("counts")
    examples = len(text) if counts is None else len(counts)
    windowed = doc_stride is not None
    # As in run_qa.py: if padding is on the left, the long text comes first.
    swap = windowed and tokenizer.padding_side == "left"
    encoded = tokenizer(
        *((pair, text) if swap else (text, pair) if pair is not None else (text,)),
        truncation=("only_first" if swap else "only_second") if windowed else True,
        max_length=max_seq_length,
        stride=doc_stride or 0,
        return_overflowing_tokens=windowed,
        return_offsets_mapping=windowed,
        padding=False,
        is_split_into_words=words,
    )
    count = len(encoded["input_ids"])
    names = [name for name in tokenizer.model_input_names if name != "attention_mask"]
    arrays: dict[str, np.ndarray] = {
        name: np.concatenate([np.asarray(ids, np.int32) for ids in encoded[name]]) for name in names
    }
    arrays["lengths"] = np.asarray([len(ids) for ids in encoded["input_ids"]], np.int32)
    if windowed:
        arrays["example"] = np.asarray(encoded["overflow_to_sample_mapping"], np.int32)
        arrays["offsets"] = np.concatenate(
            [_context_offsets(encoded, i, 0 if swap else 1) for i in range(count)]
        )
    else:
        arrays["example"] = np.repeat(np.arange(examples, dtype=np.int32), counts or 1)
    if words:
        arrays["words"] = np.asarray(
            [-1 if w is None else w for i in range(count) for w in encoded.word_ids(i)], np.int32
        )
    np.savez(os.path.join(folder, FEATURES_FILE), **arrays)  # type: ignore[arg-type]
    pad = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    meta = {
        "inputs": names,
        "pad": {name: pad.get(name, 0) or 0 for name in names},
        "padding_side": tokenizer.padding_side,
        "max_seq_length": max_seq_length,
        "examples": examples,
    }
    with open(os.path.join(folder, META_FILE), "w", encoding="utf-8") as file:
        json.dump(meta, file)


def _context_offsets(encoded: Any, feature: int, context: int) -> np.ndarray:
    """Character offsets of one feature's context tokens, shape (tokens, 2).

    `context` is the index of the text that holds the context. Other tokens get (-1, -1).
    """
    offsets = np.asarray(encoded["offset_mapping"][feature], np.int32).reshape(-1, 2)
    sequence = np.asarray([-1 if s is None else s for s in encoded.sequence_ids(feature)], np.int32)
    offsets[sequence != context] = -1
    return offsets
