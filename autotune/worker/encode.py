"""Rows of text become features, once for each workload, with the model's own tokenizer."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.shared.errors import TrialFailure
from autotune.shared.folders import TOKENIZER_FILES, refusal_of_folder
from autotune.shared.hub import download_elsewhere, hub_answers, use_cache_only
from autotune.shared.records import ModelFacts, ModelSource
from autotune.worker.batches import FEATURES_FILE, Features
from autotune.worker.engines import torch_model
from autotune.worker.flops import fit_work_polynomial
from autotune.worker.inputs import choose_padding, longest_input, text_arrays, text_row
from autotune.worker.slim import transformers
from autotune.worker.work import work_named
from autotune.worker.work.text import TextWork

UNCUT = 100_000
"""Tokens to which rows are cut if neither the user nor the model limits them."""
WEIGHT_FILES = ("*.safetensors", "*.bin")


def _loading_advice(source: ModelSource, error: Exception) -> str:
    """Why transformers cannot load the model, and what to do about it, in one line."""
    text = " ".join(str(error).split())
    if os.path.isdir(source.path):
        return f"{source.path} cannot be loaded: {text[:300]}"
    if "trust_remote_code" in text:
        return (
            f"{source.path} needs its own code to load: pass --trust-remote-code to run that code"
        )
    if source.allow_pickle is False and "safetensors" in text:
        return f"{source.path} has no safetensors weights; pass --allow-pickle to load pickled ones"
    return (
        f"{source.path!r} is neither a local folder nor in the local cache, and could not be "
        "downloaded (the model hub is unreachable, or the model is private or misspelt): "
        f"{download_elsewhere(source.path)}"
    )


def load_tokenizer(source: ModelSource, *, words: bool = False) -> Any:
    """The fast tokenizer of the model, which takes lists of words if `words` is set.

    Raises TrialFailure `unsupported` if the model has no fast tokenizer.
    """

    def load(**options: bool) -> Any:
        return transformers.AutoTokenizer.from_pretrained(
            source.path,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            **options,
        )

    tokenizer = load()
    if words:
        try:
            tokenizer([["word"]], is_split_into_words=True)
        except AssertionError:  # RoBERTa, GPT-2, ...: words of a list need a space before them
            tokenizer = load(add_prefix_space=True)
    if not tokenizer.is_fast:
        raise TrialFailure(
            "unsupported",
            f"{source.path} has only a slow tokenizer, which reports no character offsets: "
            "save the model with a tokenizer.json",
        )
    return tokenizer


def _tokenizer_advice(source: ModelSource) -> str | None:
    """What a tokenizer that cannot be loaded lacks. None if its files do not say."""
    folder = Path(source.path)
    if (folder / "tokenizer.json").exists() or not any(folder.glob("*.model")):
        return None
    return (
        f"{folder} has a SentencePiece model and no tokenizer.json: install sentencepiece and "
        "protobuf in this stack, or save the tokenizer with save_pretrained() where they are"
    )


def _digest(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of `files`, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: (path.name, path)):
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
    return _digest(files | work_named(source.work).files(folder))


def inspect_model(
    source: ModelSource,
    *,
    load_reader: Callable[[ModelSource], Any] = load_tokenizer,
    files: Sequence[str] = TOKENIZER_FILES,
) -> tuple[Any, Any, ModelFacts]:
    """What makes inputs of rows, the model, and the facts of a model that suits the task.

    `load_reader` loads the first one, from `files`: the tokenizer, or an image processor.

    Raises TrialFailure `unsupported`, with the remedy, if the model cannot be found or loaded, or
    if its checkpoint lacks weights of the head.
    """
    torch_model.silence_transformers()
    if os.path.isdir(source.path):
        refusal = refusal_of_folder(
            Path(source.path), allow_pickle=source.allow_pickle, reader=files
        )
        if refusal is not None:
            raise TrialFailure("unsupported", refusal)
    elif not hub_answers():
        use_cache_only()
    try:
        reader = load_reader(source)
    except TrialFailure:
        raise
    except Exception as error:  # transformers and tokenizers share no base class
        advice = _tokenizer_advice(source) or _loading_advice(source, error)
        raise TrialFailure("unsupported", advice) from error
    try:
        model, missing = torch_model.load(source)
    except (TrialFailure, MemoryError):
        raise
    except Exception as error:  # transformers and safetensors share no base class
        raise TrialFailure("unsupported", _loading_advice(source, error)) from error
    config, core = model.config, work_named(source.work).core(model)
    # Checkpoints trained with some heads have no pooler. No task uses the pooler.
    missing = [name for name in missing if not name.startswith("pooler.")]
    if missing:
        trained = ", ".join(config.architectures or ["unknown"])
        raise TrialFailure(
            "unsupported",
            f"{source.path} has no trained head for {source.head}: its checkpoint "
            f"({trained}) lacks {', '.join(missing[:3])}; pass a model fine-tuned for the task",
        )
    attention = str(config._attn_implementation)
    return (
        reader,
        model,
        ModelFacts(
            model_type=config.model_type,
            architecture=type(core).__name__,
            parameters=sum(p.numel() for p in model.parameters()),
            attention=attention,
            attentions=("sdpa", "eager") if attention == "sdpa" else (attention,),
            max_positions=longest_input(core, reader),
            digest=model_digest(source),
            labels=tuple(str(config.id2label[i]) for i in sorted(config.id2label or {})),
            problem=_problem(config),
        ),
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

    `max_seq_length` 0 stands for the model's longest input.

    Raises TrialFailure `unsupported` for a model that does not suit the task (see `inspect_model`)
    or has fewer positions than `max_seq_length`.
    """
    tokenizer, model, facts = inspect_model(
        source, load_reader=functools.partial(load_tokenizer, words=words)
    )
    if facts.max_positions is not None and max_seq_length > facts.max_positions:
        raise TrialFailure(
            "unsupported",
            f"max_seq_length must be at most the model's {facts.max_positions} positions, "
            f"got {max_seq_length}; pass --max-seq-length {facts.max_positions}",
        )
    max_seq_length = max_seq_length or facts.max_positions or UNCUT
    work = work_named(source.work)
    assert isinstance(work, TextWork)
    inputs = work.inputs(model, tokenizer)
    encoded = [
        _encode_rows(
            tokenizer,
            inputs,
            rewritten=lambda texts: work.rewritten(texts, source),
            rows_file=row_set["rows_file"],
            folder=row_set["folder"],
            max_seq_length=max_seq_length,
            doc_stride=doc_stride,
            words=words,
        )
        for row_set in sets
    ]
    operations = fit_work_polynomial(
        model, functools.partial(text_row, model, inputs), max_seq_length
    )
    padded, neutral = choose_padding(model, tokenizer, encoded[0], source.outputs)
    for row_set, features in zip(sets, encoded, strict=True):
        replace(
            features,
            arrays=padded.arrays,
            padding_side=padded.padding_side,
            own_pad_token=padded.own_pad_token,
            work=operations,
        ).write_meta(row_set["folder"])
    return replace(facts, work=operations, padding_neutral=neutral)


def _encode_rows(
    tokenizer: Any,
    model_inputs: tuple[str, ...],
    *,
    rewritten: Callable[[Sequence[Any]], Sequence[Any]],
    rows_file: str,
    folder: str,
    max_seq_length: int,
    doc_stride: int | None,
    words: bool,
) -> Features:
    """Write the arrays of one set into `folder`, see `encode`. Returns its features.

    Their padding is the tokenizer's, which need not be right for the model.
    """
    with open(rows_file, encoding="utf-8") as file:
        rows = json.load(file)
    text, pair, counts = rewritten(rows["text"]), rows["text_pair"], rows.get("counts")
    examples = len(text) if counts is None else len(counts)
    windowed = doc_stride is not None
    # As in run_qa.py: if padding is on the left, the long text comes first.
    swap = windowed and tokenizer.padding_side == "left"
    if doc_stride is not None:
        _check_room(tokenizer, text, max_seq_length=max_seq_length, doc_stride=doc_stride)
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
    declared = text_arrays(model_inputs)
    names = [array.name for array in declared if array.real is None]
    _fill_empty_rows(encoded, tokenizer, names, windowed=windowed)
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
            [-1 if w is None else w for i in range(count) for w in encoded.word_ids(i) or [None]],
            np.int32,
        )
    np.savez(os.path.join(folder, FEATURES_FILE), **arrays)  # type: ignore[arg-type]
    pad = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    return Features(
        arrays=text_arrays(model_inputs, {name: pad.get(name, 0) or 0 for name in names}),
        values={name: arrays[name].astype(np.int64) for name in names},
        lengths=arrays["lengths"].astype(np.int64),
        padding_side=tokenizer.padding_side,
        max_seq_length=max_seq_length,
        examples=examples,
    )


def _check_room(
    tokenizer: Any, questions: Sequence[str], *, max_seq_length: int, doc_stride: int
) -> None:
    """Raise TrialFailure `unsupported` if a question leaves no window for its context.

    A window must be longer than `doc_stride`, by which it overlaps the next one.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    lengths = [len(ids) for ids in tokenizer(questions, add_special_tokens=False)["input_ids"]]
    for number, length in enumerate(lengths, start=1):
        if length + special + doc_stride >= max_seq_length:
            raise TrialFailure(
                "unsupported",
                f"row {number} of those to run: the question {questions[number - 1][:40]!a}... "
                f"has {length} tokens, which leaves {max(0, max_seq_length - special - length)} of "
                f"{max_seq_length} for the context, and windows overlap by {doc_stride}; shorten "
                f"it, pass a --doc-stride below that, or a --max-seq-length above "
                f"{length + special + doc_stride}",
            )


def _fill_empty_rows(encoded: Any, tokenizer: Any, names: list[str], *, windowed: bool) -> None:
    """Give rows without tokens one token, since a model can compute nothing from none.

    Such rows are empty texts, of tokenizers that add no special tokens (GPT-2). The token is the
    end of text, as if such a text had just ended.
    """
    known = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    token = next((t for t in known if t is not None), 0)
    for row, ids in enumerate(encoded["input_ids"]):
        if not ids:
            for name in names:
                encoded[name][row] = [token if name == "input_ids" else 0]
            if windowed:
                encoded["offset_mapping"][row] = [(0, 0)]


def _context_offsets(encoded: Any, feature: int, context: int) -> np.ndarray:
    """Character offsets of one feature's context tokens, shape (tokens, 2).

    `context` is the index of the text that holds the context. Other tokens get (-1, -1).
    """
    offsets = np.asarray(encoded["offset_mapping"][feature], np.int32).reshape(-1, 2)
    found = encoded.sequence_ids(feature) or [None]  # an empty row, which has got one token
    sequence = np.asarray([-1 if s is None else s for s in found], np.int32)
    offsets[sequence != context] = -1
    return offsets
