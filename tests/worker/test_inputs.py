"""Which inputs a model takes, how long they may be, and how rows are padded, for many families.

Every expected answer is transformers' own for one row alone, without this project's code.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
from families import FAMILIES, build, make_tokenizer

from autotune.shared.axes import output_axes
from autotune.shared.errors import TrialFailure
from autotune.shared.records import ModelSource
from autotune.worker.batches import Features

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]

TEXTS = ["a plain start", "two friends meet again by the sea, after many years", "no", "it rained!"]
KINDS = {
    "text-classification": ("AutoModelForSequenceClassification", {"logits": "batch"}),
    "feature-extraction": ("AutoModel", {"last_hidden_state": "batch width"}),
    "token-classification": ("AutoModelForTokenClassification", {"logits": "batch width"}),
}
DECODERS = ("gpt2", "llama", "mistral", "qwen2", "gemma", "phi3", "gpt-neox")
UNUSED = 200
"""A token that no text of these tests has."""


def encoded(folder, task="text-classification", *, texts=TEXTS, max_seq_length=64, words=False):
    """The features of `texts`, and the facts of the model."""
    from autotune.worker.encode import encode

    head, outputs = KINDS[task]
    features = folder / "features"
    features.mkdir()
    rows = folder / "rows.json"
    rows.write_text(json.dumps({"text": texts, "text_pair": None}))
    source = ModelSource(path=str(folder / "model"), head=head, outputs=outputs)
    facts = encode(
        source,
        sets=[{"rows_file": str(rows), "folder": str(features)}],
        max_seq_length=max_seq_length,
        doc_stride=None,
        words=words,
    )
    return Features.load(str(features)), facts, source


def alone(folder, task, texts):
    """transformers' own outputs for each text alone, without padding."""
    import torch
    import transformers

    head, outputs = KINDS[task]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, head).from_pretrained(folder).eval()
    found = []
    for text in texts:
        row = tokenizer(text, return_tensors="pt")
        taken = {k: v for k, v in row.items() if k in inspect.signature(model.forward).parameters}
        with torch.no_grad():
            found.append(model(**taken)[next(iter(outputs))][0].numpy())
    return found


def engine_for(features, source):
    """The baseline's engine: a batch goes in, the outputs of all its rows come out."""
    from autotune.worker.engines import torch_model

    model, _ = torch_model.load(source, own_pad_token=features.own_pad_token)
    inputs = features.model_inputs
    positional = torch_model.Positional(model, inputs, tuple(source.outputs))
    return torch_model.Runnable(positional, inputs)


def together(features, source, width):
    """What the baseline answers for all rows as one batch of `width` tokens."""
    rows = list(range(len(features)))
    (found,) = engine_for(features, source)(features.batch(rows, width))
    (axes,) = output_axes(source.outputs).values()
    return features.unpad(found, rows, axes)


@pytest.mark.parametrize(
    "settings",
    [
        {"pad_token_id": UNUSED},  # the tokenizer's is another
        {"pad_token_id": None},
        {"pad_token_id": -1},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("own", ["[PAD]", None])
@pytest.mark.parametrize(
    "family", [DECODERS[0], *(pytest.param(f, marks=pytest.mark.full) for f in DECODERS[1:])]
)
def test_a_decoder_classifier_answers_a_padded_row_as_the_row_alone(
    family, own, side, settings, tmp_path
):
    tokenizer = make_tokenizer("bytes", pad_token=own, padding_side=side)
    model = build(
        tmp_path / "model", family, "text-classification", tokenizer=tokenizer, **settings
    )
    features, _, source = encoded(tmp_path)
    expected = alone(model, "text-classification", TEXTS)
    for width in (max(features.lengths), 64):
        np.testing.assert_allclose(together(features, source, width), expected, atol=1e-4)


CHANGED_BY_PADDING = ("convbert", "fnet")
"""Families whose answers depend on padding in transformers itself: one has no mask, and the
convolutions of the other read padding."""


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[pytest.mark.full] if f != "bert" else []) for f in FAMILIES],
)
def test_every_family_answers_as_transformers_does(family, tmp_path):
    model = build(tmp_path / "model", family, "text-classification")
    features, facts, source = encoded(tmp_path)
    expected = alone(model, "text-classification", TEXTS)
    assert facts.digest
    if family in CHANGED_BY_PADDING:
        for row, answer in enumerate(expected):
            batch = features.batch([row], int(features.lengths[row]))
            (found,) = engine_for(features, source)(batch)
            np.testing.assert_allclose(found[0], answer, atol=1e-4)
        return
    for width in (max(features.lengths), 64):
        np.testing.assert_allclose(together(features, source, width), expected, atol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize("family", CHANGED_BY_PADDING)
def test_a_family_that_padding_changes_answers_as_transformers_padded_batch(family, tmp_path):
    import torch
    import transformers

    folder = build(tmp_path / "model", family, "text-classification")
    features, _, source = encoded(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = tokenizer(TEXTS, padding="max_length", max_length=64, return_tensors="pt")
    taken = {k: v for k, v in batch.items() if k in inspect.signature(model.forward).parameters}
    with torch.no_grad():
        expected = model(**taken).logits.numpy()
    np.testing.assert_allclose(together(features, source, 64), expected, atol=1e-4)


def test_gpt2_with_a_tokenizer_that_pads_on_the_left_is_padded_on_the_right(tmp_path):
    """Its positions count padding: on the left every row would move."""
    tokenizer = make_tokenizer("bytes", padding_side="left")
    build(tmp_path / "model", "gpt2", "text-classification", tokenizer=tokenizer)
    assert encoded(tmp_path)[0].padding_side == "right"


def test_xlnet_is_padded_on_the_left_even_if_its_tokenizer_says_right(tmp_path):
    """It reads the last place of a row."""
    tokenizer = make_tokenizer("left", padding_side="right")
    model = build(tmp_path / "model", "xlnet", "text-classification", tokenizer=tokenizer)
    features, _, source = encoded(tmp_path)
    assert features.padding_side == "left"
    expected = alone(model, "text-classification", TEXTS)
    np.testing.assert_allclose(together(features, source, 64), expected, atol=1e-4)


def test_a_model_that_padding_always_changes_is_padded_as_transformers_does(tmp_path):
    build(tmp_path / "model", "fnet", "text-classification")
    features, _, _ = encoded(tmp_path)
    assert features.model_inputs == ("input_ids", "token_type_ids")  # it has no mask
    assert (features.arrays[0].pad, features.padding_side) == (0, "right")


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("bert", ("input_ids", "attention_mask", "token_type_ids")),
        ("distilbert", ("input_ids", "attention_mask")),  # the tokenizer offers token types
        ("gpt2", ("input_ids", "attention_mask")),
        ("xlnet", ("input_ids", "attention_mask", "token_type_ids")),
    ],
)
def test_a_model_gets_the_inputs_that_its_forward_names_in_that_order(family, names, tmp_path):
    build(tmp_path / "model", family, "text-classification")
    assert encoded(tmp_path)[0].model_inputs == names


@pytest.mark.parametrize(
    ("family", "settings", "limit"),
    [
        ("bert", {}, 512),
        ("roberta", {}, 512),  # 514 positions, of which the first 2 are for padding
        ("roberta", {"max_position_embeddings": 66}, 64),
        ("gpt2", {"n_positions": 128}, 128),
        ("xlnet", {}, None),  # its configuration says -1
        ("t5", {}, None),
    ],
)
def test_the_longest_input_is_the_longest_that_runs(family, settings, limit, tmp_path):
    import torch
    import transformers

    folder = build(tmp_path / "model", family, "text-classification", **settings)
    length = limit or 600
    texts = ["a " * 1000]
    features, facts, source = encoded(tmp_path, texts=texts, max_seq_length=length)
    assert facts.max_positions == limit
    assert features.lengths.tolist() == [length]
    assert np.isfinite(together(features, source, length)).all()
    if limit is not None:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad(), pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, limit + 1), 9))


def test_a_text_without_tokens_becomes_one_token(tmp_path):
    build(tmp_path / "model", "gpt2", "text-classification")
    features, _, source = encoded(tmp_path, texts=["", "abc"])
    assert features.lengths.tolist() == [1, 3]
    assert np.isfinite(together(features, source, 8)).all()


def test_words_need_no_space_before_them(tmp_path):
    tokenizer = make_tokenizer("bytes-cls")
    import transformers

    build(tmp_path / "model", "roberta", "token-classification", tokenizer=tokenizer)
    tokenizer.backend_tokenizer.save(str(tmp_path / "bytes.json"))
    transformers.RobertaTokenizerFast(
        tokenizer_file=str(tmp_path / "bytes.json"),
        bos_token="[CLS]",
        cls_token="[CLS]",
        eos_token="[SEP]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    ).save_pretrained(tmp_path / "model")
    words = [["two", "words"], ["one"]]
    features, _, _ = encoded(tmp_path, "token-classification", texts=words, words=True)
    # Each word has a space before it, as in run_ner.py: [CLS], 4 and 6 bytes, [SEP].
    assert features.lengths.tolist() == [12, 6]


def test_an_encoder_decoder_gives_vectors_by_its_encoder_alone(tmp_path):
    import torch
    import transformers

    folder = build(tmp_path / "model", "t5", "feature-extraction")
    features, facts, source = encoded(tmp_path, "feature-extraction")
    assert facts.architecture == "T5EncoderModel"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = transformers.T5EncoderModel.from_pretrained(folder).eval()
    for text, found in zip(TEXTS, together(features, source, 64), strict=True):
        with torch.no_grad():
            expected = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_a_model_that_needs_more_than_text_says_so():
    from autotune.worker.inputs import model_inputs

    class NeedsBoxes:
        def forward(self, input_ids=None, *, boxes, attention_mask=None):
            """Never called."""

    class Offers:
        model_input_names = ("input_ids", "attention_mask")

    with pytest.raises(TrialFailure, match="NeedsBoxes needs boxes"):
        model_inputs(NeedsBoxes(), Offers())


def test_the_answers_of_bigbird_do_not_depend_on_the_batch_before(tmp_path):
    """Alone, transformers keeps full attention after one short batch."""
    import torch

    from autotune.worker.engines import torch_model

    folder = str(build(tmp_path, "bigbird", "text-classification"))
    head = "AutoModelForSequenceClassification"
    source = ModelSource(path=folder, head=head, outputs={"logits": "feature"})
    model, _ = torch_model.load(source)
    limit = (5 + 2 * model.config.num_random_blocks) * model.config.block_size
    assert limit < model.config.max_position_embeddings
    rng = np.random.default_rng(0)
    long_row = torch.from_numpy(rng.integers(6, 40, (1, limit + model.config.block_size)))
    with torch.no_grad():
        first = model(input_ids=long_row).logits
        model(input_ids=long_row[:, :20])
        again = model(input_ids=long_row).logits
        model.bert.set_attention_type("original_full")
        full = model.bert(input_ids=long_row)[1]
        sparse_pooled = torch_model.load(source)[0].bert(input_ids=long_row)[1]
    assert torch.equal(first, again)
    assert not torch.allclose(full, sparse_pooled, atol=1e-6)  # so that equality means something


def test_a_model_that_cannot_run_a_row_says_what_it_was_given(tmp_path):
    """BERT knows one type of token here, and the tokenizer offers two."""
    build(tmp_path / "model", "bert", "text-classification", type_vocab_size=1)
    from autotune.worker.engines import torch_model
    from autotune.worker.inputs import choose_padding

    features, _, source = encoded(tmp_path)
    model, _ = torch_model.load(source)
    types = np.ones_like(features.values["token_type_ids"])
    wrong = replace(features, values={**features.values, "token_type_ids": types})
    with pytest.raises(
        TrialFailure, match=r"unsupported: BertForSequenceClassification cannot run"
    ):
        choose_padding(model, make_tokenizer("wordpiece"), wrong, source.outputs)


def test_a_tokenizer_of_sentencepiece_alone_says_what_is_missing(tmp_path):
    from autotune.worker.encode import _tokenizer_advice

    source = ModelSource(path=str(tmp_path), head="h", outputs={})
    assert _tokenizer_advice(source) is None  # there is nothing to tell
    (tmp_path / "spiece.model").write_bytes(b"")
    words = _tokenizer_advice(source)
    assert "SentencePiece model and no tokenizer.json" in words
    assert "install sentencepiece and protobuf" in words
    (tmp_path / "tokenizer.json").write_text("{}")
    assert _tokenizer_advice(source) is None
