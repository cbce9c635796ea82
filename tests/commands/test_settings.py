from __future__ import annotations

import json

import pytest

from autotune import demo
from autotune.commands.search.manifest import check_same, run_id
from autotune.commands.search.settings import (
    HUB_CACHE_VARIABLES,
    MIN_ROWS,
    Settings,
    affordable_rows,
    check_reachable,
    find_space,
    infer_task,
    load_rows,
    resolve_model,
)
from autotune.shared.errors import InputError, ModelError, ResumeError
from autotune.shared.urls import without_password
from autotune.tasks import task_named
from autotune.tasks.workload import CALIBRATION_ROWS, RowSets, sample, split


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("postgresql://me:secret@host/db", "postgresql://***@host/db"),
        ("postgresql://me@host/db", "postgresql://***@host/db"),
        ("postgresql://me:pa/ss@db/x", "postgresql://***@db/x"),
        ("--storage=postgresql://:p@/ss@db/x", "--storage=postgresql://***@db/x"),
        ("postgresql://db:5432/x?password=secret", "postgresql://db:5432/x?password=***"),
        ("postgresql://db:5432/x?password=se@cret", "postgresql://db:5432/x?password=***"),
        ("mysql://db/x?ssl=1&PassWd=s/e&a=b", "mysql://db/x?ssl=1&PassWd=***&a=b"),
        ("sqlite:///a.db", "sqlite:///a.db"),
        ("sqlite:////home/me:x@work/a.db", "sqlite:////home/me:x@work/a.db"),
        ("postgresql://db:5432/x", "postgresql://db:5432/x"),
    ],
)
def test_passwords_of_a_storage_are_not_written_down(text, written):
    assert without_password(text) == written


def test_a_row_that_is_scored_never_calibrates():
    rows = [{"n": n} for n in range(1000)]
    sets = split(rows, 100, None)
    assert len(sets.scored) == 100
    assert len(sets.calibration) == CALIBRATION_ROWS
    together = [*sets.scored, *sets.calibration, *sets.further]
    assert sorted(row["n"] for row in together) == list(range(1000))  # each row once
    assert split(rows, 0, None) == RowSets(scored=rows, calibration=[], further=[])
    given = split(rows[:5], 0, [*rows[3:5], {"n": -1}])
    assert given == RowSets(scored=rows[:5], calibration=[{"n": -1}], further=[])
    assert split(rows[:5], 2, [{"n": -1}]).further == [rows[1], rows[3], rows[4]]


@pytest.mark.parametrize(
    ("given", "reference_s", "rows"),
    [
        ({"time_budget_s": 640.0}, 10.0, 200),  # 24 s are allowed, launch.sh takes 40 s at the end
        ({"time_budget_s": 640.0}, 48.0, 100),
        ({"time_budget_s": 640.0}, 480.0, MIN_ROWS),
        ({"time_budget_s": 640.0, "max_samples": 0}, 480.0, 200),  # the user said how many
        ({"trials": 3}, 480.0, 200),
        ({}, 44.8, 100),  # ten minutes by default
    ],
)
def test_a_search_scores_fewer_rows_if_their_answers_take_long(given, reference_s, rows):
    assert affordable_rows(Settings(model="demo", **given), 200, reference_s) == rows


def test_rows_that_are_not_scored_are_further_rows():
    sets = split([{"n": n} for n in range(300)], 200, [{"n": -1}])
    fewer = sets.fewer(70)
    assert len(fewer.scored) == 70
    assert fewer.calibration == sets.calibration
    together = [row["n"] for row in (*fewer.scored, *fewer.further)]
    assert sorted(together) == list(range(300))
    assert sets.fewer(200) == sets


@pytest.mark.parametrize("name", ["owner/name", "bert-base-uncased"])
def test_hub_ids_are_taken_as_they_are(name):
    assert resolve_model(name) == name


@pytest.mark.parametrize("name", ["./x", "~/x", "/x/y", "a/b/c", "a b", "", "-rf", "..", "a;b"])
def test_what_is_neither_folder_nor_id_is_refused(name):
    with pytest.raises(ModelError):
        resolve_model(name)


def test_demo_is_the_embedded_model_and_data():
    assert resolve_model("demo") == str(demo.MODEL)
    _, sets = load_rows(Settings(model="demo"), task_named("qa"))
    assert (len(sets.scored), len(sets.calibration), len(sets.further)) == (194, 62, 0)


def test_rows_are_sampled_evenly_and_in_order():
    rows = [{"n": n} for n in range(10)]
    assert [r["n"] for r in sample(rows, 3)] == [0, 3, 6]
    assert sample(rows, 0) == sample(rows, 10) == sample(rows, 99) == rows


def test_a_space_is_found_by_name_or_path(tmp_path):
    assert find_space("qa").name == "qa.yaml"
    assert find_space("smoke.yaml").name == "smoke.yaml"
    with pytest.raises(InputError, match="no such space"):
        find_space("nonsense")


MANIFEST = {
    "workload": {"id": "x", "model": "a", "max_seq_length": 384},
    "objective": "throughput",
    "max_accuracy_drop": 0.01,
    "baseline": {"threads": 2},
    "space": {"digest": "d", "unavailable": {}},
    "host": {"model_name": "CPU", "cores": 2},
    "stacks": {"default": {"python": "/p", "versions": {"torch": "2.8.0"}}},
}


def test_the_same_run_may_go_on():
    check_same(MANIFEST, MANIFEST)


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("workload", "model", "workload model"),
        ("workload", "max_seq_length", "workload max_seq_length of this run is 384, now it is 1"),
        ("host", "cores", "host cores"),
        ("stacks", "default", "stacks default python"),
        ("space", "digest", "space digest"),
    ],
)
def test_another_run_is_refused_with_the_difference(section, key, words):
    with pytest.raises(ResumeError, match=words):
        check_same(MANIFEST, {**MANIFEST, section: {**MANIFEST[section], key: 1}})


def test_another_sampler_is_another_run():
    words = 'sampler of this run is "tpe", now it is "gp"'
    with pytest.raises(ResumeError, match=words):
        check_same({**MANIFEST, "sampler": "tpe"}, {**MANIFEST, "sampler": "gp"})


def test_a_run_from_before_samplers_could_be_named_goes_on_with_autotunes():
    check_same(MANIFEST, {**MANIFEST, "sampler": "autotune"})
    with pytest.raises(ResumeError, match='sampler of this run is "autotune", now it is "tpe"'):
        check_same(MANIFEST, {**MANIFEST, "sampler": "tpe"})


def test_a_run_has_an_id_of_its_own_and_keeps_it():
    assert run_id(None) != run_id(None)
    assert len(run_id(None)) == 32
    assert run_id({"run": "abc", "created": "2026"}) == "abc"
    assert run_id({"created": "2026"}) == "2026"


def test_a_stack_more_or_less_is_another_run():
    other = {"default": MANIFEST["stacks"]["default"], "new": {"python": "/n", "versions": {}}}
    for one, two in ((MANIFEST["stacks"], other), (other, MANIFEST["stacks"])):
        with pytest.raises(ResumeError, match="stacks new python"):
            check_same({**MANIFEST, "stacks": one}, {**MANIFEST, "stacks": two})


def folder_of(path, content):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(content))
    return str(path)


def test_the_task_is_that_of_the_architecture_in_config_json(tmp_path):
    model = folder_of(tmp_path / "m", {"architectures": ["XLNetForTokenClassification"]})
    assert infer_task(model) == ("token-classification", "XLNetForTokenClassification")
    other = folder_of(tmp_path / "lm", {"architectures": ["BertForMaskedLM"]})
    with pytest.raises(ModelError, match=r"config.json names BertForMaskedLM, .*; pass --task"):
        infer_task(other)
    with pytest.raises(ModelError, match="names no architecture"):
        infer_task(folder_of(tmp_path / "none", {}))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub answers, and nothing was downloaded; the folder of the hub's caches."""
    for name in ("HF_HOME", *HUB_CACHE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache" / "huggingface" / "hub"


def test_a_model_that_cannot_be_had_is_one_line_before_anything_is_started(offline, tmp_path):
    with pytest.raises(ModelError, match=r"hf download owner/name --local-dir DIR.* --model DIR$"):
        check_reachable("owner/name")
    check_reachable(folder_of(tmp_path / "m", {}))  # a folder needs no hub


@pytest.mark.parametrize(
    "variable",
    [None, "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"],
)
def test_a_model_in_a_cache_needs_no_hub(offline, tmp_path, monkeypatch, variable):
    place = offline
    if variable is not None:
        named = tmp_path / "elsewhere"
        monkeypatch.setenv(variable, str(named))
        place = named / "hub" if variable == "HF_HOME" else named
    snapshot = place / "models--owner--name" / "snapshots" / "0"
    folder_of(snapshot, {"architectures": ["BertForQuestionAnswering"]})
    check_reachable("owner/name")
    assert infer_task("owner/name")[0] == "qa"
