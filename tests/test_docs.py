"""The documentation says what the commands say, and points at what is there."""

from __future__ import annotations

import re
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


def test_every_page_is_linked_from_another():
    text = "\n".join(page.read_text() for page in PAGES)
    for page in PAGES[2:]:
        assert f"{page.name})" in text, page.name
