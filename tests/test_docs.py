"""The documentation says what the commands say, and points at what is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from autotune.cli.manual import commands, updated

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def test_every_command_has_a_page_that_shows_its_help():
    page = (ROOT / "docs" / "commands.md").read_text()
    made = "python -m autotune.cli.manual docs/commands.md"
    assert updated(page) == page, f"make it again: {made}"


def test_a_command_without_a_page_is_named():
    with pytest.raises(ValueError, match=r"no page of: .*spaces show"):
        updated("# Commands\n")
    assert ("stack", "create") in set(commands())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


PIP = re.compile(r"pip install ([^\n#]*)")


def test_what_is_installed_from_an_index_is_on_one():
    """autotune is on no index: it is installed from a clone, with `make` and without."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    asked = [words for page in PAGES for words in PIP.findall(page.read_text())]
    own = [words for words in asked if words.startswith("'.[")]
    assert own
    for words in own:
        named = words.partition("[")[2].partition("]")[0].split(",")
        assert set(named) <= set(extras), words
    assert not [words for words in asked if words not in own and "autotune" in words]
    readme = (ROOT / "README.md").read_text()
    first_commands = re.findall(r"^    (\S.*)$", readme, re.MULTILINE)
    assert first_commands[0].startswith("make demo")
    assert "pip install '.[" in readme


def test_every_page_is_linked_from_another():
    text = "\n".join(page.read_text() for page in PAGES)
    for page in PAGES[2:]:
        assert f"{page.name})" in text, page.name
