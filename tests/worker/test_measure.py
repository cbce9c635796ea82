"""The stopping rules on a clock that only moves when it is told to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_batches import features

from autotune.shared.errors import TrialFailure
from autotune.shared.padding import plan
from autotune.shared.stopping import StoppingRule
from autotune.worker.disturbance import Moment, Taken
from autotune.worker.measure import (
    ReferenceOutputs,
    WarmUp,
    measure,
    part_of_pass,
    run_new_shapes,
    warm_up,
)

FEATURES = features([3, 5, 2])
PLANNED = plan(FEATURES.lengths, batch_size=2, padding="longest", max_seq_length=16)
AXES = {"start": ("batch", "width"), "label": ("batch",)}


class Machine:
    """Answers with the ids themselves; pass n takes `seconds[n]` (the last one for ever)."""

    def __init__(self, seconds, answer=None):
        self.now, self.seconds, self.calls = 0.0, seconds, 0
        self.answer = answer or (
            lambda b: [
                b["input_ids"].astype(np.float32),
                b["input_ids"].sum(1).astype(np.float32),
            ]
        )

    def __call__(self, batch):
        index = min(self.calls // len(PLANNED), len(self.seconds) - 1)
        self.now += self.seconds[index] / len(PLANNED)
        self.calls += 1
        return self.answer(batch)

    def warm_up(self, batches, **options):
        """What `worker.measure.warm_up` returns of this machine. Every shape is new to it."""
        return warm_up(
            WarmUp(
                call=self,
                batches=batches,
                seen_shapes=None,
                clock=lambda: self.now,
                **options,
            )
        )

    def run(self, waits=(), settled=True, warm_s=None, **rule):
        """`waits`: the seconds that each pass has waited for a CPU, none after the last."""
        waits, waited, looks = iter(waits), 0.0, 0

        def look():
            nonlocal waited, looks
            waited += next(waits, 0.0) if looks % 2 else 0.0
            looks += 1
            taken = Taken(waited_s={1: waited}, stolen_s={}, cpus=frozenset())
            return Moment(taken=taken, reference_s=1e-3)

        return measure(
            self,
            AXES,
            PLANNED,
            FEATURES,
            StoppingRule(**rule),
            clock=lambda: self.now,
            read_counters=look,
            settled=settled,
            warm_pass_s=warm_s,
        )


def test_outputs_are_in_dataset_order_without_padding():
    _, outputs, repeatable = Machine([1.0]).run()
    assert outputs.arrays["start"].tolist() == list(range(1, 11))
    assert outputs.arrays["label"].tolist() == [6, 30, 19]
    assert repeatable


def test_steady_passes_stop_as_soon_as_the_minimum_is_reached():
    passes, _, _ = Machine([1.0]).run(min_passes=3)
    assert [p.total_s for p in passes] == pytest.approx([1.0] * 3)


def test_noisy_passes_are_repeated_until_the_budget_is_gone():
    noisy = [1.0, 1.5] * 50
    assert len(Machine(noisy).run(budget_s=10.0, max_passes=99)[0]) == 8
    assert len(Machine(noisy).run(budget_s=999.0, patience_s=999.0, max_passes=7)[0]) == 7


def test_slow_passes_stop_at_the_patience():
    assert len(Machine([30.0]).run(min_passes=3, patience_s=40.0)[0]) == 2


def test_a_hopeless_first_pass_is_enough():
    assert len(Machine([1.2]).run(leader_s=1.0)[0]) == 1
    assert len(Machine([1.05]).run(leader_s=1.0)[0]) == 3


def test_disturbed_passes_are_run_again():
    passes, _, _ = Machine([1.0]).run(waits=[0.5, 0.0, 0.2], min_passes=3)
    assert [p.disturbed for p in passes] == [True, False, True, False, False]
    assert [p.waited_s for p in passes] == pytest.approx([0.5, 0.0, 0.2, 0.0, 0.0])


def test_a_host_that_never_rests_costs_twice_the_rule_and_no_more():
    passes, _, _ = Machine([1.0]).run(waits=[0.5] * 99, min_passes=3, budget_s=5.0)
    assert len(passes) == 10
    passes, _, _ = Machine([1.0]).run(waits=[0.5] * 99, min_passes=3, max_passes=4)
    assert len(passes) == 8


def test_answers_that_change_between_passes_are_noticed():
    drift = iter(range(1000))
    machine = Machine([1.0])
    steady = machine.answer
    machine.answer = lambda b: [steady(b)[0] + next(drift), steady(b)[1]]
    assert machine.run()[2] is False


def test_non_finite_outputs_are_a_typed_failure():
    bad = Machine([1.0], lambda b: [b["input_ids"] * np.float32("nan"), b["input_ids"].sum(1)])
    with pytest.raises(TrialFailure, match="non-finite: output start"):
        bad.run()


def test_outputs_of_another_shape_are_a_typed_failure():
    bad = Machine([1.0], lambda b: [b["input_ids"][:, :-1].astype(np.float32), b["input_ids"]])
    with pytest.raises(TrialFailure, match="output start has shape"):
        bad.run()


@pytest.mark.parametrize(("seconds", "rounds"), [([0.8], 2), ([0.9, 0.3, 0.1], 4), ([2.0], 1)])
def test_warm_up_ends_when_two_rounds_agree(seconds, rounds):
    machine = Machine(seconds)
    batches = [FEATURES.batch(p.rows, p.width) for p in PLANNED]
    machine.warm_up(batches)
    assert machine.calls == rounds * len(batches)


def test_warm_up_gives_up_on_a_slow_engine_that_does_not_settle():
    machine = Machine([90.0, 9.0, 1.0])
    batches = [FEATURES.batch(p.rows, p.width) for p in PLANNED]
    machine.warm_up(batches)
    assert machine.calls == len(batches)


@pytest.mark.parametrize(("leader_s", "calls"), [(math.inf, 1), (9.0, 2)])
def test_a_point_that_was_warm_needs_its_smallest_batch_or_one_short_round(leader_s, calls):
    machine = Machine([0.1])
    batches = [FEATURES.batch([0], 3)] * 9
    screen, _ = machine.warm_up(batches, known_pass_s=7.0, screen_above_s=leader_s)
    assert machine.calls == calls
    assert screen.settled is (leader_s == math.inf)
    assert screen.pass_s == pytest.approx(7.0 if leader_s == math.inf else 9 * 0.1 / len(PLANNED))


@pytest.mark.parametrize(
    ("seconds", "rounds", "hopeless"),
    [
        ([9.0], 1, True),  # fifteen times too slow, though cold
        ([1.5], 2, True),  # late, but a round more tells
        ([0.5], 2, False),
        ([0.8, 0.3], 3, False),
        ([0.8, 0.78], 2, True),  # settled
        ([0.8, 0.5, 0.4, 0.39], 4, False),
        ([0.99, 0.85], 3, True),
    ],
)
def test_a_hopeless_configuration_is_seen_once_it_is_warm(seconds, rounds, hopeless):
    """Over 0.6 s a pass is hopeless, 2.4 s before it has settled, 4.8 s in the first round."""
    machine = Machine(seconds)
    batches = [FEATURES.batch(p.rows, p.width) for p in PLANNED]
    screen, found = machine.warm_up(batches, screen_above_s=0.6)
    assert found is hopeless
    assert screen.settled is (rounds > 1)
    assert machine.calls == rounds * len(batches)
    last = seconds[min(rounds, len(seconds)) - 1]
    assert screen.pass_s == pytest.approx(last)
    assert (screen.batches, sum(screen.batch_s)) == ((0, 1), pytest.approx(last))


def test_a_round_more_than_there_is_time_for_is_the_last():
    machine = Machine([4.0, 1.5])
    batches = [FEATURES.batch(p.rows, p.width) for p in PLANNED]
    screen, found = machine.warm_up(batches, screen_above_s=0.6)
    assert machine.calls == 2 * len(batches)
    assert (found, screen.settled) == (False, False)


def test_a_screen_says_what_others_took_during_its_last_round():
    machine = Machine([0.8, 0.78])
    seconds = iter([0.0, 0.5, 0.5, 0.6])

    def taken():
        return Taken(waited_s={1: next(seconds)}, stolen_s={}, cpus=frozenset())

    batches = [FEATURES.batch(p.rows, p.width) for p in PLANNED]
    screen, _ = machine.warm_up(batches, taken=taken)
    assert screen.taken_s == pytest.approx(0.1)
    assert screen.disturbed


@pytest.mark.parametrize(
    ("pass_s", "most_s", "expected"),
    [(3.0, None, range(10)), (3.0, 4.0, range(10)), (12.0, 4.0, [1, 4, 7]), (99.0, 1.0, [4])],
)
def test_a_part_of_a_long_pass_is_spread_over_it(pass_s, most_s, expected):
    assert list(range(10))[part_of_pass(10, pass_s, most_s)] == list(expected)


def test_a_part_has_times_and_no_outputs():
    machine = Machine([1.0])
    passes, outputs, repeatable = measure(
        machine,
        AXES,
        PLANNED[:1],
        FEATURES,
        StoppingRule(min_passes=2),
        clock=lambda: machine.now,
        share=0.5,
        complete=False,
    )
    assert {len(p.batch_s) for p in passes} == {1}
    assert outputs is None
    assert repeatable
    assert passes[0].whole_s == pytest.approx(2 * passes[0].total_s)


def test_an_instance_leaves_the_rows_of_the_others_out():
    machine = Machine([1.0])
    _, outputs, _ = measure(
        machine,
        AXES,
        PLANNED[:1],
        FEATURES,
        StoppingRule(min_passes=1, max_passes=1, leader_s=1.0),
        clock=lambda: machine.now,
        share=0.8,
    )
    ran = set(PLANNED[0].rows)
    assert [row in ran for row in range(3)] == (~np.isnan(outputs.arrays["label"])).tolist()
    starts = np.isnan(outputs.arrays["start"])
    assert starts.tolist() == [row not in ran for row, n in enumerate((3, 5, 2)) for _ in range(n)]


def test_engines_that_compile_by_shape_see_every_shape_before_a_pass():
    seen = []
    batches = [FEATURES.batch([0], 3 + number // 2) for number in range(14)]

    def call(batch):
        seen.append(batch["input_ids"].shape[1])

    met = {(1, 3)}
    screen, _ = warm_up(WarmUp(call=call, batches=batches, seen_shapes=met, clock=lambda: 0.0))
    spread = [batches[index]["input_ids"].shape[1] for index in screen.batches]
    assert spread == [4, 6, 8]
    assert seen == [3, *spread, *spread, *spread]  # the smallest, what is new, then two rounds
    seen.clear()
    run_new_shapes(call, batches, met)
    assert not {*seen} & {*spread, 3}
    assert sorted({*seen, *spread, 3}) == list(range(3, 10))
    assert len(seen) == len(set(seen))
    run_new_shapes(call, batches, met)
    assert len(seen) == len(set(seen))  # another point of the session finds them met


@pytest.mark.parametrize(
    ("seconds", "hopeless_s", "rounds"), [(0.8, 1.0, 1), (0.8, 0.7, 2), (0.8, math.inf, 1)]
)
def test_in_a_warm_process_one_round_shows_a_point_worth_its_passes(seconds, hopeless_s, rounds):
    machine = Machine([seconds])
    batches = [FEATURES.batch(p.rows, p.width) for p in PLANNED]
    clock = {"clock": lambda: machine.now}
    screen, hopeless = warm_up(
        WarmUp(
            call=machine,
            batches=batches,
            seen_shapes=None,
            process_is_warm=True,
            screen_above_s=hopeless_s,
            **clock,
        )
    )
    assert machine.calls == rounds * len(batches)
    assert hopeless is (hopeless_s < seconds)
    assert screen.settled


@pytest.mark.parametrize(
    ("seconds", "rounds", "hopeless"),
    [
        ([0.55], 1, False),  # no worse than it will be warm
        ([90.0, 0.5], 2, False),  # compiling is no reason to give up
        ([0.9, 0.8, 0.79], 3, True),
        ([0.9, 0.8, 0.5], 3, False),
    ],
)
def test_meeting_shapes_tells_when_a_point_is_worth_its_passes(seconds, rounds, hopeless):
    """Over 0.6 s a pass is hopeless."""
    machine = Machine(seconds)
    batches = [FEATURES.batch(p.rows, p.width) for p in PLANNED]
    met: set[tuple[int, int]] = set()
    clock = {"clock": lambda: machine.now}
    screen, found = warm_up(
        WarmUp(call=machine, batches=batches, seen_shapes=met, screen_above_s=0.6, **clock)
    )
    assert machine.calls == rounds * len(batches)
    assert found is hopeless
    assert screen.settled is hopeless
    assert met == {batch["attention_mask"].shape for batch in batches}


@pytest.mark.parametrize(
    ("batch_s", "leader_s", "calls"),
    [
        (0.01, math.inf, 1 + 2 * 6),
        (0.5, math.inf, 2 + 2),
        (1.5, math.inf, 2),  # nothing to compare with, so the first estimate will do
        (1.5, 100.0, 2 + 1),
        (1.5, 50.0, 2 + 2),  # it may be screened out: another round
    ],
)
def test_the_slower_a_point_the_fewer_batches_are_looked_at(batch_s, leader_s, calls):
    """The smallest is run first, and again if it is slow."""
    machine = Machine([batch_s * len(PLANNED)])
    batches = [FEATURES.batch([0], 3)] * 40
    screen, hopeless = machine.warm_up(batches, screen_above_s=leader_s)
    assert machine.calls == calls
    assert screen.pass_s == pytest.approx(40 * batch_s)
    assert hopeless is (40 * batch_s > leader_s)


def test_an_engine_that_prepares_itself_in_its_first_call_is_not_slow():
    machine = Machine([100.0, 0.01, 0.01])  # for as many calls as there are planned batches
    machine.calls = len(PLANNED) - 1
    machine.warm_up([FEATURES.batch([0], 3)] * 40)
    assert machine.calls - (len(PLANNED) - 1) == 2 + 2 * 6


def test_a_cold_first_pass_is_kept_and_does_not_count():
    warm, _, _ = Machine([2.0, 1.0]).run(min_passes=2, half_width=1.0)
    assert [p.total_s for p in warm] == pytest.approx([2.0, 1.0])
    passes, _, _ = Machine([2.0, 1.0]).run(min_passes=2, half_width=1.0, settled=False)
    assert [p.total_s for p in passes] == pytest.approx([2.0, 1.0, 1.0])
    assert [p.cold for p in passes] == [True, False, False]
    hopeless, _, _ = Machine([2.0, 1.0]).run(min_passes=2, leader_s=0.5, settled=False)
    assert len(hopeless) == 2  # the cold one says nothing of that
    (long,), _, _ = Machine([50.0, 1.0]).run(min_passes=1, patience_s=40.0, settled=False)
    assert not long.cold  # most of it was warm


def test_a_first_rung_is_one_pass_whatever_it_was():
    for seconds, options in ((1.0, {}), (1.0, {"settled": False}), (9.0, {"waits": [5.0]})):
        passes, outputs, _ = Machine([seconds]).run(rung="first", **options)
        assert len(passes) == 1
        assert outputs is not None


def test_what_meeting_shapes_took_is_known_by_the_warm_batches():
    (cold,), _, _ = Machine([3.0]).run(rung="first", warm_s=1.0)
    assert (cold.total_s, cold.meeting_s) == pytest.approx((3.0, 2.0))
    assert cold.whole_s == pytest.approx(1.0)
    assert sum(cold.warm_batch_s) == pytest.approx(1.0)
    (faster,), _, _ = Machine([0.9]).run(rung="first", warm_s=1.0)
    assert faster.meeting_s == 0
    assert faster.warm_batch_s == faster.batch_s
    (warm,), _, _ = Machine([3.0]).run(rung="first")
    assert (warm.cold, warm.meeting_s) == (False, 0)


@pytest.mark.parametrize(
    ("pass_s", "cold"),
    [(3.0, False), (3.2, True), (0.9, True)],  # 3% and 9% over the warm batches; a short pass
)
def test_a_long_pass_counts_if_meeting_its_shapes_took_little(pass_s, cold):
    warm_s = 2.9 if pass_s > 1 else 0.89
    (one,), _, _ = Machine([pass_s]).run(rung="first", warm_s=warm_s, budget_s=2.0)
    assert one.cold is cold


REFERENCE = ReferenceOutputs(
    arrays={
        "start": np.arange(1, 11, dtype=np.float32),
        "label": np.array([6, 30, 19], np.float32),
    },
    axes=AXES,
    features=FEATURES,
)


def check(change):
    """The outputs of a pass, changed, against the reference's."""
    machine = Machine([1.0])
    batches = [FEATURES.batch(p.rows, p.width) for p in PLANNED]
    REFERENCE.check(PLANNED, [change(machine.answer(batch)) for batch in batches])


@pytest.fixture
def few_are_telling(monkeypatch):
    monkeypatch.setattr("autotune.worker.measure.MIN_LOGITS_TO_JUDGE", 3)


@pytest.mark.usefixtures("few_are_telling")
def test_answers_like_the_references_pass_the_screen():
    check(lambda outputs: outputs)
    check(lambda o: [1.1 * o[0] + 0.2, o[1]])


@pytest.mark.usefixtures("few_are_telling")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: [-o[0], o[1]], "3 rows output start has a correlation of -1"),
        (lambda o: [0 * o[0], o[1]], "correlation of 0.00"),
        (lambda o: [o[0] * np.float32("nan"), o[1]], "correlation of"),
        (lambda o: [o[0], -o[1]], "output label has a correlation"),
        (lambda o: [o[0], np.stack([o[1], o[1]], 1)], "crash: output label has shape"),
    ],
)
def test_answers_to_another_question_are_screened_out(change, words):
    with pytest.raises(TrialFailure, match=words):
        check(change)


def test_a_few_logits_say_nothing():
    check(lambda o: [-o[0], -o[1]])


def test_the_first_round_of_warming_up_is_looked_at():
    seen = []
    batches = [FEATURES.batch(p.rows, p.width) for p in PLANNED]
    machine = Machine([1.0])
    options = {"seen_shapes": None, "clock": lambda: machine.now}
    warm_up(
        WarmUp(
            call=machine,
            batches=batches,
            check_outputs=lambda numbers, outputs: seen.append((numbers, len(outputs))),
            **options,
        )
    )
    assert seen == [([0, 1], 2)]
