"""A search remembers its leaders, and the next search tries them first."""

from __future__ import annotations

import pytest
from bench_search import SMALL
from fakes import host, surroundings

from autotune.shared.errors import OutputError
from autotune.shared.records import ModelFacts
from autotune.space import compile_space, load_space
from autotune.store import cache, learned
from autotune.store.learned import (
    MAX_LEADERS,
    MAX_SEEDS,
    Finding,
    choose_seeds,
    forget,
    locate,
    pick_leaders,
    recall,
    remember,
)

SPACE = compile_space(load_space(SMALL), surroundings())
CONFIGS = list(SPACE.configs())
FACTS = ModelFacts(
    model_type="bert",
    architecture="BertForQuestionAnswering",
    parameters=22_000_000,
    attention="sdpa",
    attentions=("sdpa",),
    max_positions=512,
    digest="0",
)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    return tmp_path


def finding(*configs, **changed):
    return Finding(
        **{
            "created": "2026-01-01T00:00:00+00:00",
            "model": "demo",
            "model_type": "bert",
            "parameters": 22_000_000,
            "task": "qa",
            "objective": "throughput",
            "configs": configs,
            "speedups": (2.0,) * len(configs),
            **changed,
        }
    )


def test_what_is_remembered_comes_back_on_the_same_host_only():
    remember(host(4), finding(CONFIGS[0], CONFIGS[5]))
    remember(host(4), finding(CONFIGS[1]))
    assert [f.configs for f in recall(host(4))] == [(CONFIGS[0], CONFIGS[5]), (CONFIGS[1],)]
    assert recall(host(2)) == []
    forget(host(4))
    assert recall(host(4)) == []


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"configs": 3}', '{"configs": [{}]}', "\x00"])
def test_a_damaged_line_is_skipped(line):
    remember(host(4), finding(CONFIGS[0]))
    with locate(host(4)).open("a") as file:
        file.write(line + "\n")
    remember(host(4), finding(CONFIGS[1]))
    assert len(recall(host(4))) == 2


def test_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(learned, "MAX_SEARCHES", 3)
    for config in CONFIGS[:5]:
        remember(host(4), finding(config))
    assert [f.configs[0] for f in recall(host(4))] == CONFIGS[2:5]


def test_the_most_similar_search_comes_first_and_another_objective_never_counts():
    other_size = finding(CONFIGS[0], parameters=300_000_000)
    other_task = finding(CONFIGS[1], task="text-classification")
    other_type = finding(CONFIGS[2], model_type="gpt2")
    same = finding(CONFIGS[3], CONFIGS[4])
    latency = finding(CONFIGS[5], objective="latency")
    found = choose_seeds(
        [same, other_size, other_task, other_type, latency],
        FACTS,
        task="qa",
        objective="throughput",
    )
    assert found == [CONFIGS[3], CONFIGS[0], CONFIGS[2], CONFIGS[1], CONFIGS[4]]


def test_seeds_are_few_and_none_comes_twice():
    many = [finding(*CONFIGS[n : n + 4]) for n in range(0, 40, 4)]
    assert (
        len(choose_seeds([*many, many[-1]], FACTS, task="qa", objective="throughput")) == MAX_SEEDS
    )


def test_a_configuration_far_behind_its_leader_is_no_seed():
    few = finding(*CONFIGS[:3], speedups=(8.0, 6.5, 3.0))
    assert choose_seeds([few], FACTS, task="qa", objective="throughput") == CONFIGS[:2]


def test_leaders_are_remembered_once_a_mode_and_precision():
    kept = pick_leaders(CONFIGS)
    assert len({(c["mode"], c["precision"]) for c in kept}) == len(kept) == MAX_LEADERS
    assert kept[0] == CONFIGS[0]


def test_seeds_come_before_the_priors_as_near_as_the_space_has_them():
    jit = next(c for c in CONFIGS if c["mode"] == "jit" and c["precision"] == "fp32")
    narrow = compile_space(
        load_space(SMALL), surroundings(), overrides={"padding": ["longest"]}, first=[jit]
    )
    assert dict(narrow.priors[0]) == {**jit, "padding": "longest"}
    assert len(narrow.priors) > 1


def test_forgetting_what_cannot_be_removed_is_one_line():
    locate(host()).mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be removed: Is a directory"):
        forget(host())
