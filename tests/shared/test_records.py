from __future__ import annotations

import json

import pytest
from fakes import trial
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from autotune.shared.records import Config, Failure, dumps
from autotune.store.wire import WireError, parse_trial

SCALARS = st.one_of(st.booleans(), st.integers(), st.text())


@given(st.dictionaries(st.text(min_size=1), SCALARS, max_size=6), st.randoms())
def test_config_id_does_not_depend_on_order(values, rng):
    shuffled = list(values.items())
    rng.shuffle(shuffled)
    assert Config.of(values) == Config.of(dict(shuffled))
    assert Config.of(values).id == Config.of(dict(shuffled)).id


def test_config_id_tells_values_and_types_apart():
    ids = {Config.of({"a": v}).id for v in (1, True, "1", 2)}
    assert len(ids) == 4


@given(st.dictionaries(st.text(min_size=1), SCALARS, max_size=6))
def test_pydantic_reads_and_writes_a_configuration_as_one_object(values):
    adapter, config = TypeAdapter(Config), Config.of(values)
    assert adapter.dump_python(config) == values
    read = adapter.validate_json(adapter.dump_json(config))
    assert read == config
    assert [type(value) for value in read.values()] == [type(v) for v in config.values()]


@pytest.mark.parametrize(
    "wrong", [[["threads", 1]], {"threads": None}, {"threads": [1]}, "threads"]
)
def test_what_is_no_object_of_scalars_is_no_configuration(wrong):
    with pytest.raises(ValidationError):
        TypeAdapter(Config).validate_python(wrong)


def test_a_configuration_is_a_mapping_of_its_knobs():
    config = Config.of({"threads": 2, "mode": "jit"})
    assert dict(config) == {"mode": "jit", "threads": 2}
    assert (config["threads"], config.get("pinning", "none"), len(config)) == (2, "none", 2)
    assert "pinning" not in config
    with pytest.raises(KeyError):
        config["pinning"]


def test_trial_survives_its_line_of_json():
    for original in (
        trial(),
        trial(measurement=None, accuracy=None, failure=Failure(kind="crash", detail="x\n☃")),
    ):
        assert parse_trial(dumps(original)) == original


def test_failure_kinds_are_a_closed_set():
    with pytest.raises(ValueError, match="must be one of"):
        Failure(kind="bad luck", detail="")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("origin"), "origin"),
        (lambda v: v.update(surprise=1), "surprise"),
        (lambda v: v["measurement"].update(examples="ten"), "measurement.examples"),
        (lambda v: v.update(failure={"kind": "nonsense", "detail": ""}), "must be one of"),
    ],
)
def test_damaged_trials_are_refused_with_the_place(change, message):
    value = json.loads(dumps(trial()))
    change(value)
    with pytest.raises(WireError, match=message):
        parse_trial(json.dumps(value))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"config": 3}', "[" * 100_000, "NaN"])
def test_text_that_is_no_trial_is_refused(text):
    with pytest.raises(WireError):
        parse_trial(text)


def test_non_finite_numbers_never_reach_the_disk():
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(trial(duration_s=float("nan")))
