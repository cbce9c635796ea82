"""Rows of text -> features, with the model's own tokenizer, once a workload."""

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
from autotune.worker.flops import polynomial
from autotune.worker.slim import transformers

UNLIMITED = 1_000_000  # tokenizers without a limit report a huge model_max_length
WEIGHTS = ("*.safetensors", "*.bin")
TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")


def _advice(source: ModelSource, error: Exception) -> str:
    """What to do about a model that transformers cannot load, in one line."""
    text = " ".join(str(error).split())
    if os.path.isdir(source.path):
        if "safetensors" in text and not source.allow_pickle:
            return (
                f"{source.path} has no model.safetensors; pickled weights can run code when "
                "loaded: convert them, or pass --allow-pickle if you trust their author"
            )
        return f"{source.path} cannot be loaded: {text[:300]}"
    if "trust_remote_code" in text:
        return f"{source.path} needs its own code to load: pass --trust-remote-code to run it"
    if source.allow_pickle is False and "safetensors" in text:
        return f"{source.path} has no safetensors weights; pass --allow-pickle to load pickled ones"
    return (
        f"{source.path!r} is neither a local folder nor in the local cache, and the model hub "
        "did not give it (unreachable, offline, private or misspelt): download it where the hub "
        "is reachable with `hf download "
        f"{source.path} --local-dir DIR` and pass --model DIR"
    )


def load_tokenizer(source: ModelSource) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    if not tokenizer.is_fast:
        raise TrialFailure(
            "unsupported",
            f"{source.path} has only a slow tokenizer, which gives no character offsets; "
            "save it with a tokenizer.json",
        )
    return tokenizer


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: path.name):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def model_digest(source: ModelSource) -> str:
    """SHA-256 over configuration, tokenizer and weights, wherever the model was found."""
    folder = Path(source.path)
    if not folder.is_dir():
        found = transformers.utils.cached_file(source.path, "config.json", revision=source.revision)
        folder = Path(str(found)).parent
    files = {
        path for pattern in ("config.json", *TOKENIZER, *WEIGHTS) for path in folder.glob(pattern)
    }
    return _digest(files)


def inspect(source: ModelSource) -> tuple[Any, ModelFacts]:
    """The tokenizer and the facts of a model that is fit for the task.

    Raises TrialFailure `unsupported` with the next step: cannot be found or loaded, or its
    checkpoint lacks the weights of the head.
    """
    torch_model.quiet()
    try:
        tokenizer = load_tokenizer(source)
        model, missing = torch_model.load(source)
    except (TrialFailure, MemoryError):
        raise
    except Exception as error:  # transformers and safetensors share no base class
        raise TrialFailure("unsupported", _advice(source, error)) from error
    config = model.config
    # A checkpoint of another head has no pooler, which nothing here reads.
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
        if limit and limit < UNLIMITED
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
    )


def encode(
    source: ModelSource,
    *,
    sets: Sequence[Mapping[str, str]],
    max_seq_length: int,
    doc_stride: int | None,
    words: bool,
) -> ModelFacts:
    """Write the features of each set's `rows_file` into its `folder`.

    A rows file is JSON: `{"text": [...], "text_pair": [...] or null}`. With `doc_stride`,
    `text_pair` is cut into windows that overlap by that many tokens, and the character
    offsets of its tokens are kept ((-1, -1) for all others), shape (tokens, 2). With `words`
    each text is a list of words, and the word of each token is kept (-1 for none).

    Raises TrialFailure `unsupported` for a model that does not fit, see `inspect`.
    """
    tokenizer, facts = inspect(source)
    if facts.max_positions is not None and max_seq_length > facts.max_positions:
        raise TrialFailure(
            "unsupported",
            f"max_seq_length must be at most the model's {facts.max_positions} positions, "
            f"got {max_seq_length}; pass --max-seq-length {facts.max_positions}",
        )
    for one in sets:
        _encode_rows(
            tokenizer,
            rows_file=one["rows_file"],
            folder=one["folder"],
            max_seq_length=max_seq_length,
            doc_stride=doc_stride,
            words=words,
        )
    return replace(facts, work=polynomial(source))


def _encode_rows(
    tokenizer: Any,
    *,
    rows_file: str,
    folder: str,
    max_seq_length: int,
    doc_stride: int | None,
    words: bool,
) -> None:
    with open(rows_file, encoding="utf-8") as file:
        rows = json.load(file)
    text, pair = rows["text"], rows["text_pair"]
    windowed = doc_stride is not None
    # As run_qa.py: the long text goes where the padding goes.
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
        arrays["example"] = np.arange(count, dtype=np.int32)
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
        "examples": len(text),
    }
    with open(os.path.join(folder, META_FILE), "w", encoding="utf-8") as file:
        json.dump(meta, file)


def _context_offsets(encoded: Any, feature: int, context: int) -> np.ndarray:
    """Character spans of one feature's context tokens, (-1, -1) elsewhere: (length, 2)."""
    offsets = np.asarray(encoded["offset_mapping"][feature], np.int32).reshape(-1, 2)
    sequence = np.asarray([-1 if s is None else s for s in encoded.sequence_ids(feature)], np.int32)
    offsets[sequence != context] = -1
    return offsets
