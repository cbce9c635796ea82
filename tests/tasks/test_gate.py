from __future__ import annotations

import numpy as np
import pytest

from autotune.driver.arrays import EncodedFeatures
from autotune.shared.errors import DegenerateBaselineError
from autotune.shared.records import OUTSIDE, PROVEN, UNPROVEN
from autotune.tasks import task_named
from autotune.tasks.gate import Gate, GateRule

TASK = task_named("text-classification").for_model(("no", "yes"))
LABELS = [n % 2 for n in range(100)]


def gate_of(labels=LABELS, task=TASK, **rule):
    return Gate(
        task=task,
        rows=[{"label": label} for label in labels],
        features=None,
        rule=GateRule(**{"max_drop": 0.01, **rule}),
    )


def outputs(right, labels=LABELS):
    """Logits that predict the label of the first `right` rows, and the other of the rest."""
    chosen = [label if n < right else 1 - label for n, label in enumerate(labels)]
    return {"logits": np.eye(2, dtype=np.float32)[chosen]}


GATE = gate_of()


@pytest.mark.parametrize(("right", "allowed"), [(100, True), (99, True), (98, False), (0, False)])
def test_the_limit_is_relative_to_the_reference(right, allowed):
    reference = GATE.reference(outputs(100))
    accuracy = GATE.judge(outputs(right), reference)
    assert accuracy.allowed is allowed
    assert accuracy.relative_drop == pytest.approx((100 - right) / 100)
    assert accuracy.agreement == pytest.approx(right / 100)
    failure = GATE.failure(accuracy, reference)
    assert (failure is None) == allowed
    if failure:
        assert failure.kind == "inaccurate"
        assert "against 100.00" in failure.detail


def test_a_gain_is_allowed():
    accuracy = GATE.judge(outputs(100), GATE.reference(outputs(90)))
    assert accuracy.allowed
    assert accuracy.relative_drop < 0


def test_the_largest_logit_difference_is_kept():
    other = {"logits": outputs(100)["logits"] + np.float32(0.25)}
    accuracy = GATE.judge(other, GATE.reference(outputs(100)))
    assert accuracy.max_abs_logit_difference == pytest.approx(0.25)


def test_scores_that_drift_are_reported():
    """The softmax of (0, 1) gives 0.2689 and 0.7311, that of (1, 0) the reverse."""
    accuracy = GATE.judge(outputs(99), GATE.reference(outputs(100)))
    assert accuracy.score_drift.largest == pytest.approx(0.4621, abs=1e-4)
    assert accuracy.score_drift.p99 == 0.0  # the 99th of 100 differences in order
    two_of_100 = GATE.judge(outputs(98), GATE.reference(outputs(100))).score_drift
    assert two_of_100.p99 == two_of_100.largest
    assert GATE.judge(outputs(100), GATE.reference(outputs(100))).score_drift.largest == 0.0


RNG = np.random.default_rng(0)
RANDOM = {"logits": RNG.normal(size=(100, 2)).astype(np.float32)}
CONSTANT = {"logits": np.tile(np.array([[0, 1]], np.float32), (100, 1))}


@pytest.mark.parametrize(
    ("given", "labels", "words"),
    [
        (outputs(0), LABELS, "the baseline's accuracy is 0.00"),
        (RANDOM, LABELS, "is not surely better than"),
        (CONSTANT, LABELS, "50.00, which always answering no gets"),
        (outputs(90), [1] * 90 + [0] * 10, "which always answering yes gets"),
        (outputs(100, [1] * 100), [1] * 100, "which always answering yes gets"),
    ],
)
def test_a_baseline_at_chance_is_refused(given, labels, words):
    with pytest.raises(DegenerateBaselineError, match=words):
        gate_of(labels).reference(given)


@pytest.mark.parametrize("given", [outputs(0), RANDOM, CONSTANT])
def test_a_baseline_at_chance_may_be_accepted_and_the_gate_judges_by_agreement(given):
    gate = gate_of(accept_degenerate=True)
    reference = gate.reference(given)
    assert reference.by_agreement
    assert gate.judge(given, reference).allowed
    one_off = {"logits": given["logits"].copy()}
    one_off["logits"][0] = one_off["logits"][0][::-1]
    assert gate.judge(one_off, reference).relative_drop == pytest.approx(0.01)
    other = gate.judge({"logits": -given["logits"]}, reference)
    assert other.relative_drop == pytest.approx(1.0)
    assert "0.00% of the predictions are eager's" in gate.failure(other, reference).detail


def test_random_answers_are_never_a_baseline():
    """Of 100 models that guess, chance may let about one through."""
    rng = np.random.default_rng(1)
    passed = 0
    for _ in range(100):
        try:
            gate_of().reference({"logits": rng.normal(size=(100, 2)).astype(np.float32)})
            passed += 1
        except DegenerateBaselineError:
            pass
    assert passed <= 4  # P(more than 4 of 100 at 1% each) = 0.3%


def one_token_each(rows, offsets=None):
    return EncodedFeatures(
        lengths=np.ones(rows, np.int32), example=np.arange(rows, dtype=np.int32), offsets=offsets
    )


def useless_baselines():
    """Models that guess, of every kind of task whose rows have right answers."""
    rng = np.random.default_rng(3)

    def noise(*shape):
        return rng.normal(size=shape).astype(np.float32)

    embeddings, classes = task_named("feature-extraction"), task_named("text-classification")
    names = [f"p{n}" for n in range(40)]
    answers = {"text": ["cat"], "answer_start": [0]}
    question = {"id": "1", "context": "dog cat", "question": "?", "answers": answers}
    words = EncodedFeatures(  # two tokens a context: "dog", which the model says, and "cat"
        lengths=np.full(40, 2, np.int32),
        example=np.arange(40, dtype=np.int32),
        offsets=np.tile(np.array([[0, 3], [4, 7]], np.int32), (40, 1)),
    )
    dog = np.tile(np.float32([1, 0]), 40)
    yield (
        "question answering",
        (
            task_named("qa"),
            [question] * 40,
            words,
            {"start_logits": dog, "end_logits": dog},
        ),
    )
    number = classes.for_model(("LABEL_0",), "regression")
    scores = [{"label": float(n)} for n in range(40)]
    yield "numbers, always the same", (number, scores, None, {"logits": np.ones((40, 1))})
    yield "numbers", (number, scores, None, {"logits": noise(40, 1)})
    several = classes.for_model(("a", "b", "c"), "multi_label")
    sets = [{"label": [n % 3]} for n in range(40)]
    yield "several labels", (several, sets, None, {"logits": noise(40, 3)})
    pairs = [{"texts": ["a", "b"], "score": float(n)} for n in range(20)]
    vectors = {"sentence_embedding": noise(40, 8)}
    yield "pairs", (embeddings.with_layout("pairs"), pairs, one_token_each(40), vectors)
    queries = [{"texts": [f"q{n}", names[n]], "grades": [1.0]} for n in range(20)]
    yield "queries", (embeddings.with_layout("queries"), queries, one_token_each(40), vectors)


@pytest.mark.parametrize(
    ("task", "rows", "features", "given"), [pytest.param(*v, id=k) for k, v in useless_baselines()]
)
def test_a_useless_baseline_of_any_task_is_refused_and_says_what_to_check(
    task, rows, features, given
):
    def gate(**rule):
        return Gate(task=task, rows=rows, features=features, rule=GateRule(max_drop=0.01, **rule))

    with pytest.raises(DegenerateBaselineError) as caught:
        gate().reference(given)
    for words in ("labels (or tags)", "fine-tuned for this task", "--accept-degenerate"):
        assert words in str(caught.value)
    accepting = gate(accept_degenerate=True)
    reference = accepting.reference(given)
    same = accepting.judge(given, reference)
    assert (reference.by_agreement, same.allowed, same.relative_drop) == (True, True, 0.0)


TAGS = ("O", "B-per", "I-per")
WORDS = EncodedFeatures(
    lengths=np.full(20, 4, np.int32),
    example=np.arange(20, dtype=np.int32),
    offsets=None,
    words=np.tile(np.arange(4, dtype=np.int32), 20),
)


@pytest.mark.parametrize(
    ("tags", "labels"),
    [
        (["O"] * 4, TAGS),  # nothing to find
        (["NOUN", "VERB", "NOUN", "ADP"], ("NOUN", "VERB", "ADP")),
        (["B-per", "I-per", "O", "O"], TAGS),
    ],
)
def test_random_tags_are_never_a_baseline(tags, labels):
    task = task_named("token-classification").for_model(labels)
    rows = [{"tokens": ["a"] * 4, "tags": tags}] * 20
    logits = np.random.default_rng(2).normal(size=(80, len(labels))).astype(np.float32)
    gate = Gate(task=task, rows=rows, features=WORDS, rule=GateRule(max_drop=0.01))
    with pytest.raises(DegenerateBaselineError):
        gate.reference({"logits": logits})


def test_the_difference_has_an_interval_over_rows():
    reference = GATE.reference(outputs(100))
    low, high = GATE.judge(outputs(90), reference).difference
    # 100 rows with 10% errors: the binomial's standard deviation is 3 points
    assert -18 < low < -14
    assert -6 < high < -2


@pytest.mark.parametrize("rows", [100, 400, 1000])
def test_rows_that_all_agree_leave_room_for_rows_that_were_not_seen(rows):
    """The exact upper end of a binomial's 95% interval at 0 of n is about 3.7 / n."""
    labels = [n % 2 for n in range(rows)]
    gate = gate_of(labels)
    same = outputs(rows, labels)
    accuracy = gate.judge(same, gate.reference(same))
    low, high = accuracy.difference
    assert 2.5 / rows <= -low / 100 <= 4.5 / rows
    assert high == pytest.approx(-low, rel=0.5)
    assert accuracy.certainty == (PROVEN if rows >= 400 else UNPROVEN)


def test_the_verdict_says_how_sure_it_is_and_how_many_rows_would_prove_it():
    gate = gate_of(proven=True)
    reference = gate.reference(outputs(100))
    same = gate.judge(outputs(100), reference)
    assert (same.certainty, same.rows) == (UNPROVEN, 100)
    # the interval's end at 100 rows is 3% to 4.5%; it must shrink to 1%
    assert 900 <= same.rows_to_prove <= 2025
    assert f"about {same.rows_to_prove} rows would prove it" in gate.unproven(same).detail
    outside = gate.judge(outputs(98), reference)
    assert (outside.certainty, outside.rows_to_prove) == (OUTSIDE, None)
    assert gate_of().unproven(same) is None
