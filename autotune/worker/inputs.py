"""What a model reads of a row: which inputs, at most how many tokens, and padded how.

Decided here once, while the rows are encoded. Every engine finds the decisions in the features.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from autotune.shared.axes import InputArray, output_axes
from autotune.shared.errors import TrialFailure
from autotune.worker.batches import Features

MASK = "attention_mask"
"""transformers' name of the mask of texts: 1 for a token, 0 for padding."""
UNLIMITED_TOKENS = 1_000_000
"""Limits from here on mean no limit: such tokenizers report a huge `model_max_length`."""
CONFIG_LIMITS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")
"""Settings of a configuration that limit the length of a row. transformers maps `n_positions` to
the first one where it is a limit. XLNet has -1 there, for none."""
POSITION_TABLES = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
"""Names of the tables of learned positions in the models of transformers."""
SAME_ANSWER = 1e-3
"""Outputs of a padded row may differ by this from those of the row alone, relative to the largest
output. Rounding makes differences of 1e-6, a wrongly padded row differs by 0.1 and more."""
MEASURED_PADDING = 8
"""Tokens of padding that the longest row gets, so that its padding is tried, too."""


def model_inputs(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """The tokenizer's outputs that the model takes, in the order of its `forward`.

    The mask counts as the tokenizer's, even if the tokenizer does not list it: a model would
    otherwise read padding. Names that `forward` would only collect in `**kwargs` are left out.
    Raises TrialFailure `unsupported` if `forward` needs an input that no tokenizer makes.
    """
    offered = {*tokenizer.model_input_names, MASK}
    parameters = inspect.signature(model.forward).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in named and parameter.default is parameter.empty and name not in offered
    ]
    if needed or "input_ids" not in parameters:
        kind = type(model).__name__
        reason = f"needs {', '.join(needed)}" if needed else "takes no input_ids"
        raise TrialFailure(
            "unsupported", f"{kind} {reason}; only models of text alone can be tuned"
        )
    return tuple(name for name in parameters if name in offered)


def text_arrays(
    names: Sequence[str], pad: Mapping[str, int] | None = None
) -> tuple[InputArray, ...]:
    """The declarations of a text's inputs `names`. `pad` gives their values of padding."""
    values = pad or {}
    return tuple(
        InputArray(name=name, real=1)
        if name == MASK
        else InputArray(name=name, pad=values.get(name, 0))
        for name in names
    )


def text_row(model: Any, names: Sequence[str], width: int) -> dict[str, torch.Tensor]:
    """The inputs of one text of `width` tokens that every model can read.

    Classifiers of T5 and BART read the end of the text, and fail without one.
    """
    ends = getattr(model.config, "eos_token_id", None)
    token = (ends[0] if isinstance(ends, list) else ends) or 0
    fill = {"input_ids": token if 0 < token < model.config.vocab_size else 0, MASK: 1}
    return {name: torch.full((1, width), fill.get(name, 0)) for name in names}


def longest_input(model: Any, tokenizer: Any) -> int | None:
    """The most tokens that one row may have. None if nothing limits them.

    The smallest of these limits:
    - `tokenizer.model_max_length`;
    - the limits of the configuration (CONFIG_LIMITS);
    - the rows of the table of learned positions. RoBERTa and its kin count positions from behind
      their padding token, so a table of 514 rows serves 512 tokens; BART has an offset.
    """
    limits = (
        getattr(tokenizer, "model_max_length", None),
        *(getattr(model.config, name, None) for name in CONFIG_LIMITS),
        *_position_rows(model),
    )
    found = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < UNLIMITED_TOKENS]
    return min(found) if found else None


def _position_rows(model: Any) -> Iterator[int]:
    """The tokens that each table of learned positions serves."""
    for name, module in model.named_modules():
        shape: tuple[int, ...] = tuple(getattr(getattr(module, "weight", None), "shape", ()))
        if name.rpartition(".")[2] in POSITION_TABLES and len(shape) == 2:
            padding = getattr(module, "padding_idx", None)
            first = getattr(module, "offset", 0) if padding is None else padding + 1
            yield shape[0] - first


def choose_padding(
    model: Any, tokenizer: Any, features: Features, outputs: Mapping[str, str]
) -> tuple[Features, bool]:
    """`features` with a padding under which a row gets the answers that it gets alone, and whether
    there is such a padding.

    These are tried in turn, on the shortest and on the longest row: the tokenizer's side before
    the other one, and on each side the tokenizer's token before the model's own
    (`config.pad_token_id`). Examples:
    - A decoder classifier reads the last token that is not its own padding token. Other padding
      gives wrong answers, so the model's own token is chosen.
    - GPT-2 counts positions from the left, padding included: only padding on the right is right.
    - XLNet reads the last place of a row: only padding on the left is right.
    If the model has no padding token of its own, `own_pad_token` says which one to give it: the
    tokenizer's, its end of text, or else the lowest token, but none that ends a row.

    Padding changes the answers of some models whatever is done: FNet has no mask, ConvBERT's
    convolutions read padding. They keep the first choice, which is transformers' own.

    Raises TrialFailure `unsupported`, with the model's words, if the model cannot run a row.
    """
    if not len(features):
        return features, True
    rows = sorted({int(np.argmin(features.lengths)), int(np.argmax(features.lengths))})
    width = min(int(features.lengths.max()) + MEASURED_PADDING, features.max_seq_length)
    try:
        alone = [_answers(model, features, [row], outputs) for row in rows]
    except Exception as error:
        names = ", ".join(features.model_inputs)
        raise TrialFailure(
            "unsupported", f"{type(model).__name__} cannot run on {names} of a row: {error}"
        ) from error
    own, added = _token(model, model.config.pad_token_id), None
    if own is None:
        last = features.values["input_ids"][np.cumsum(features.lengths) - 1]
        own = added = model.config.pad_token_id = _unused_token(model, tokenizer, last)
    theirs = None if added is not None else _token(model, tokenizer.pad_token_id)
    tokens = {own} if theirs is None else dict.fromkeys((theirs, own))
    other = {"right": "left", "left": "right"}
    choices = [
        replace(
            features,
            arrays=tuple(
                replace(array, pad=token) if array.name == "input_ids" else array
                for array in features.arrays
            ),
            padding_side=side,
            own_pad_token=added,
        )
        for side in (tokenizer.padding_side, other[tokenizer.padding_side])
        for token in tokens
    ]
    for choice in choices:
        if _answers_as_alone(model, choice, rows, alone, outputs, width):
            return choice, True
    return choices[0], False


def _answers_as_alone(
    model: Any,
    features: Features,
    rows: Sequence[int],
    alone: Sequence[Sequence[npt.NDArray[np.float32]]],
    outputs: Mapping[str, str],
    width: int,
) -> bool:
    """Whether `rows`, padded to `width`, get the answers `alone` of each. False on an error."""
    try:
        padded = _answers(model, features, rows, outputs, width)
    except Exception:  # T5 refuses rows that are padded with its end of text
        return False
    return all(
        _alike(together, answer)
        for number, answers in enumerate(alone)
        for answer, together in zip(answers, padded[number :: len(rows)], strict=True)
    )


def _token(model: Any, token: int | None) -> int | None:
    """`token` if it is one of the model's. Some configurations say -1, or a token never added."""
    return token if token is not None and 0 <= token < model.config.vocab_size else None


def _unused_token(model: Any, tokenizer: Any, last_tokens: npt.NDArray[np.int64]) -> int:
    """A padding token for a model without one: it must not end any row."""
    ends = set(last_tokens.tolist())
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, *range(model.config.vocab_size))
    return next(t for t in candidates if _token(model, t) is not None and t not in ends)


def _answers(
    model: Any,
    features: Features,
    rows: Sequence[int],
    outputs: Mapping[str, str],
    width: int | None = None,
) -> list[npt.NDArray[np.float32]]:
    """Each output of each of `rows`, run as one batch: all rows of the first output, then more."""
    batch = features.batch(rows, width or max(int(features.lengths[row]) for row in rows))
    with torch.no_grad():
        found = model(**{name: torch.from_numpy(batch[name]) for name in features.model_inputs})
    answers: list[npt.NDArray[np.float32]] = []
    for name, axes in output_axes(outputs).items():
        answers += features.unpad(found[name].float().numpy(), rows, axes)
    return answers


def _alike(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> bool:
    scale = max(float(np.abs(other).max()), 1.0)
    return bool(one.shape == other.shape and np.abs(one - other).max() <= SAME_ANSWER * scale)
