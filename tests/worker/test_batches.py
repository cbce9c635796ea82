from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.shared.padding import batch_width, batches_of_instance, fits_one_batch, plan, shapes
from autotune.worker.batches import Features

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
        inputs={"input_ids": ids, "token_type_ids": ids % 2},
        lengths=np.array(lengths),
        pad={"input_ids": 0, "token_type_ids": 0},
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
    back = np.concatenate(found.unpad(batch["input_ids"], rows))
    assert (back == found.inputs["input_ids"]).all()


def test_padding_is_on_the_tokenizers_side():
    assert features([2]).batch([0], 4)["input_ids"].tolist() == [[1, 2, 0, 0]]
    assert features([2], "left").batch([0], 4)["attention_mask"].tolist() == [[0, 0, 1, 1]]


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
