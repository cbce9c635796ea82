"""`autotune spaces`: what travels with the package, and what a space comes to here."""

from __future__ import annotations

import json

import pytest

from autotune.commands.search.settings import shipped_spaces
from autotune.space import load_space

FILE = """\
version: 1
task: qa
description: of a test
knobs:
  mode: eager
  precision: [fp32, bf16]
  threads: 1
  bf16_method: {choices: [autocast, full], when: {threads: {min: 1}}}
constraints:
  - {name: never, forbid: {precision: fp32, batch_size: {max: 1}}, because: of a test}
"""


def test_the_spaces_that_travel_are_listed(autotune):
    listed = json.loads(autotune("spaces", "list", "--json").stdout)
    assert set(listed) == set(shipped_spaces())
    assert listed["qa"]["task"] == "qa"
    assert autotune("spaces", "list").stdout.count("\n") == len(listed)


def test_a_space_is_validated_without_looking_at_the_host(autotune, tmp_path):
    (tmp_path / "mine.yaml").write_text("version: 1\ntask: qa\nknobs: {threads: 4096}\n")
    done = autotune("spaces", "validate", "mine.yaml")
    assert (done.returncode, done.stdout) == (
        0,
        "mine.yaml: 1 knobs, 0 constraints, 0 priors for qa\n",
    )
    (tmp_path / "mine.yaml").write_text("version: 1\ntask: poetry\nknobs: {}\n")
    refused = autotune("spaces", "validate", "mine.yaml")
    assert refused.returncode == 2
    assert "must be one of qa" in refused.stderr
    assert autotune("spaces", "validate", "nowhere").returncode == 2


@pytest.mark.parametrize("name", shipped_spaces())
def test_every_shipped_space_names_its_task_and_purpose(name):
    file = load_space(shipped_spaces()[name])
    assert file.description


@pytest.mark.model
def test_a_space_is_shown_as_it_is_here(autotune, tmp_path):
    (tmp_path / "mine.yaml").write_text(FILE)
    done = autotune("spaces", "show", "mine.yaml", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["knobs"]["precision"] == {"values": ["fp32", "bf16"], "when": {}}
    assert shown["knobs"]["bf16_method"]["when"]["threads"] == {"min": 1}
    narrowed = autotune("spaces", "show", "mine.yaml", "--set", "precision=fp32")
    assert "precision              fp32\n" in narrowed.stdout
    assert "never: of a test" in narrowed.stdout
    assert "configurations" in narrowed.stdout
    refused = autotune("spaces", "show", "mine.yaml", "--set", "mode=warp")
    assert refused.returncode == 2
