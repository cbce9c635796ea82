from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.shared.axes import InputArray
from autotune.shared.padding import batch_width, batches_of_instance, fits_one_batch, plan, shapes
from autotune.worker.batches import FEATURES_FILE, META_FILE, Features

WIDE = ("batch", "width")
LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=50)
PADDINGS = st.sampled_from(["max_length", "longest", "length_sorted", "buckets"])
POINTS = st.one_of(
    st.builds(
        lambda padding, size: {"padding": padding, "batch_size": size, "bucket_step": 8},
        PADDINGS,
        st.integers(1, 9),
    ),
    st.builds(
        lambda tokens: {"padding": "token_budget", "batch_tokens": tokens}, st.integers(1, 200)
    ),
)


@given(LENGTHS, PADDINGS, st.integers(1, 9), st.sampled_from([8, 16]))
def test_every_row_is_planned_once_and_fits(lengths, padding, batch_size, step):
    planned = plan(
        np.array(lengths),
        batch_size=batch_size,
        padding=padding,
        max_seq_length=64,
        bucket_step=step,
    )
    assert sorted(row for p in planned for row in p.rows) == list(range(len(lengths)))
    for p in planned:
        longest = max(lengths[row] for row in p.rows)
        assert len(p.rows) <= batch_size
        assert longest <= p.width <= 64
        if padding == "max_length":
            assert p.width == 64
        elif padding == "buckets":
            assert p.width % step == 0
            assert p.width - longest < step
        else:
            assert p.width == longest
    if padding in ("length_sorted", "buckets"):
        ordered = [lengths[row] for p in planned for row in p.rows]
        assert ordered == sorted(lengths, reverse=True)
    else:
        assert [row for p in planned for row in p.rows] == list(range(len(lengths)))


def features(lengths, side="right"):
    ids = np.arange(1, sum(lengths) + 1)
    return Features(
        arrays=(
            InputArray(name="input_ids"),
            InputArray(name="attention_mask", real=1),
            InputArray(name="token_type_ids"),
        ),
        values={"input_ids": ids, "token_type_ids": ids % 2},
        lengths=np.array(lengths),
        padding_side=side,
        max_seq_length=16,
        examples=len(lengths),
    )


@given(LENGTHS, POINTS, st.data())
def test_every_batch_has_one_of_the_shapes(lengths, point, data):
    known = shapes(np.array(lengths), max_seq_length=64, **point)
    assert known == sorted(set(known))
    together = data.draw(st.lists(st.sampled_from(lengths), min_size=1, max_size=9))
    if fits_one_batch(together, **point):
        width = batch_width(
            max(together),
            padding=point["padding"],
            max_seq_length=64,
            bucket_step=point.get("bucket_step", 0),
        )
        assert (len(together), width) in known
    for planned in plan(np.array(lengths), max_seq_length=64, **point):
        assert (len(planned.rows), planned.width) in known


@given(LENGTHS, st.sampled_from(["right", "left"]))
def test_unpadding_undoes_padding(lengths, side):
    found = features(lengths, side)
    rows = list(range(len(lengths)))
    batch = found.batch(rows, 70)
    assert batch["attention_mask"].sum() == sum(lengths)
    back = np.concatenate(found.unpad(batch["input_ids"], rows, WIDE))
    assert (back == found.values["input_ids"]).all()


def test_padding_is_on_the_tokenizers_side():
    assert features([2]).batch([0], 4)["input_ids"].tolist() == [[1, 2, 0, 0]]
    assert features([2], "left").batch([0], 4)["attention_mask"].tolist() == [[0, 0, 1, 1]]


@given(LENGTHS, st.sampled_from(["right", "left"]), st.sampled_from([1, 2]))
def test_any_array_is_padded_along_its_width_wherever_that_is(lengths, side, place):
    """Frames of five numbers each: (batch, width, bins), or (batch, bins, width)."""
    axes = ("batch", "width", "bins") if place == 1 else ("batch", "bins", "width")
    rng = np.random.default_rng(0)
    frames = rng.random((sum(lengths), 5)).astype(np.float32)
    found = Features(
        arrays=(InputArray(name="frames", axes=axes, dtype="float32", pad=-1.5),),
        values={"frames": frames},
        lengths=np.array(lengths),
        padding_side=side,
        max_seq_length=70,
        examples=len(lengths),
    )
    rows = list(range(len(lengths)))[::-1]
    batch = found.batch(rows, 70)
    assert batch.shape == (len(lengths), 70)
    assert batch["frames"].dtype == np.float32
    assert batch["frames"].flags.c_contiguous
    assert batch["frames"].shape[place] == 70
    starts = found.starts
    for row, own in zip(rows, found.unpad(batch["frames"], rows, axes), strict=True):
        assert (own == frames[starts[row] : starts[row + 1]]).all()
    padded = 70 * len(lengths) - sum(lengths)
    assert (batch["frames"] == -1.5).sum() == 5 * padded
    kept = batch.without_padding(batch["frames"], axes)
    assert kept.shape == (sum(lengths), 5)


def test_inputs_without_a_width_are_stacked():
    pictures = np.arange(3 * 2 * 4, dtype=np.float32).reshape(3, 2, 4)
    found = Features(
        arrays=(InputArray(name="pictures", axes=("batch", "channels", "dots"), dtype="float32"),),
        values={"pictures": pictures},
        lengths=np.ones(3, np.int64),
        padding_side="right",
        max_seq_length=1,
        examples=3,
    )
    assert not found.has_width
    (first, last) = plan(found.lengths, batch_size=2, max_seq_length=found.max_seq_length)
    assert (first.rows, first.width, last.rows) == ((0, 1), 1, (2,))
    batch = found.batch(first.rows, first.width)
    assert (batch["pictures"] == pictures[:2]).all()
    assert (batch.shape, batch.size) == ((2, 1), 2)
    scores = np.arange(4.0).reshape(2, 2)
    assert np.array_equal(found.unpad(scores, first.rows, ("batch",)), scores)
    assert batch.without_padding(scores, ("batch",)) is scores


def test_features_are_read_as_they_were_declared(tmp_path):
    written = features([2, 1])
    values = {"input_ids": written.values["input_ids"].astype(np.int32)}
    values["token_type_ids"] = written.values["token_type_ids"].astype(np.int32)
    np.savez(tmp_path / FEATURES_FILE, lengths=written.lengths, **values)
    written.write_meta(str(tmp_path))
    found = Features.load(str(tmp_path))
    assert found.arrays == written.arrays
    assert found.batch([0, 1], 2)["input_ids"].tolist() == [[1, 2], [3, 0]]
    assert found.batch([0, 1], 2)["input_ids"].dtype == np.int64


def test_features_of_older_runs_are_read(tmp_path):
    """They declared the names of inputs, and made a mask beside them."""
    np.savez(tmp_path / FEATURES_FILE, input_ids=np.array([5, 6, 7], np.int32), lengths=[2, 1])
    meta = {"inputs": ["input_ids"], "pad": {"input_ids": 9}, "padding_side": "left"}
    meta |= {"max_seq_length": 4, "examples": 2}
    (tmp_path / META_FILE).write_text(json.dumps(meta))
    batch = Features.load(str(tmp_path)).batch([0, 1], 2)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [[5, 6], [9, 7]],
        "attention_mask": [[1, 1], [0, 1]],
    }


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="unknown padding"):
        plan(np.array([1]), batch_size=1, padding="diagonal", max_seq_length=8)


@pytest.mark.parametrize(
    ("batches", "count", "parts"),
    [
        (3, 1, [range(3)]),
        (7, 2, [range(7), range(7)]),
        (9, 2, [range(0, 9, 2), range(1, 9, 2)]),
    ],
)
def test_instances_share_the_batches_where_there_are_enough(batches, count, parts):
    assert [range(batches)[batches_of_instance(batches, i, count)] for i in range(count)] == parts
