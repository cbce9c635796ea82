"""The queue, on a clock that moves only when something sleeps or runs."""

from __future__ import annotations

import pytest
from test_batches import features

from autotune.shared.records import Config
from autotune.worker.serve import (
    MAX_SHAPES_WARM_UP_S,
    MAX_WARM_UP_SHAPES,
    serve,
    warm_up_shapes,
)

FEATURES = features([3, 5, 2, 4])
BATCHES_OF_TWO = Config.of({"padding": "longest", "batch_size": 2})


class Engine:
    """Takes a second for each batch, and remembers the shapes."""

    def __init__(self):
        self.now, self.shapes = 100.0, []

    def __call__(self, batch):
        self.now += 1.0
        self.shapes.append(batch["input_ids"].shape)

    def sleep(self, seconds):
        self.now += seconds


def answered(rows, arrivals, point=BATCHES_OF_TWO):
    engine = Engine()
    served = serve(
        engine, FEATURES, rows, arrivals, point=point, clock=lambda: engine.now, sleep=engine.sleep
    )
    return served, engine.shapes


def test_a_request_alone_does_not_wait():
    served, shapes = answered([0, 1, 2], [0.5, 5.0, 10.0])
    assert served.latency_s == pytest.approx((1.0, 1.0, 1.0))
    assert served.batches == (1, 1, 1)
    assert shapes == [(1, 3), (1, 5), (1, 2)]


def test_waiting_requests_are_batched_as_far_as_they_fit():
    served, shapes = answered([0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3])
    assert served.batches == (1, 2, 1)
    assert shapes == [(1, 3), (2, 5), (1, 4)]
    assert served.latency_s == pytest.approx((1.0, 1.9, 1.8, 2.7))


def test_shapes_new_to_the_engine_are_counted_once():
    seen = {(1, 3)}
    engine = Engine()
    served = serve(
        engine,
        FEATURES,
        [0, 1, 0, 1],
        [0.0, 5.0, 10.0, 15.0],
        point=BATCHES_OF_TWO,
        seen_shapes=seen,
        clock=lambda: engine.now,
        sleep=engine.sleep,
    )
    assert served.unmet == 1
    assert seen == {(1, 3), (1, 5)}
    assert answered([0, 1], [0.0, 5.0])[0].unmet == 0  # an engine that does not specialise by shape


BUCKETS = Config.of({"padding": "buckets", "batch_size": 2, "bucket_step": 4})


def test_few_shapes_are_all_run_before_the_first_request():
    engine, seen = Engine(), {(2, 4)}
    warm_up_shapes(engine, FEATURES, point=BUCKETS, seen_shapes=seen, clock=lambda: engine.now)
    assert engine.shapes == [(1, 4), (1, 8), (2, 8)]
    assert seen == {(1, 4), (1, 8), (2, 4), (2, 8)}
    warm_up_shapes(engine, FEATURES, point=BUCKETS, seen_shapes=seen, clock=lambda: engine.now)
    assert len(engine.shapes) == 3


def test_many_shapes_are_left_to_the_requests():
    engine, seen = Engine(), set()
    point = Config.of({**BUCKETS, "batch_size": MAX_WARM_UP_SHAPES // 2 + 1})
    warm_up_shapes(engine, FEATURES, point=point, seen_shapes=seen, clock=lambda: engine.now)
    assert not engine.shapes


def test_warming_up_shapes_stops_after_its_time_limit():
    engine, seen = Engine(), set()
    point = Config.of({**BUCKETS, "batch_size": 40})
    warm_up_shapes(engine, FEATURES, point=point, seen_shapes=seen, clock=lambda: engine.now)
    assert len(engine.shapes) == len(seen) == MAX_SHAPES_WARM_UP_S  # a second each


@pytest.mark.parametrize(
    ("point", "shapes"),
    [
        ({"padding": "max_length", "batch_size": 4}, [(1, 16), (3, 16)]),
        ({"padding": "buckets", "batch_size": 4, "bucket_step": 4}, [(1, 4), (3, 8)]),
        ({"padding": "token_budget", "batch_tokens": 10}, [(1, 3), (2, 5), (1, 4)]),
        ({"padding": "token_budget", "batch_tokens": 1}, [(1, 3), (1, 5), (1, 2), (1, 4)]),
        ({"padding": "length_sorted", "batch_size": 4}, [(1, 3), (3, 5)]),
    ],
)
def test_batches_are_those_of_the_point(point, shapes):
    assert answered([0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3], Config.of(point))[1] == shapes
