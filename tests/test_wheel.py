"""What travels in the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return next(out.glob("*.whl"))


def test_spaces_and_demo_travel_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "autotune/search_spaces/qa.yaml" in names
    assert "autotune/demo/model/model.safetensors" in names
    assert "autotune/demo/data/xquad-en-dev.json" in names
    assert "autotune/demo/NOTICE.md" in names


def test_the_unpacked_wheel_finds_its_spaces_and_demo(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import autotune, autotune.demo as d\n"
        "from autotune.commands.search.settings import find_space\n"
        "from autotune.space import load_space\n"
        "path = find_space('qa')\n"
        "load_space(path)\n"
        "print(path, d.MODEL, (d.MODEL / 'config.json').is_file(), d.DATASET.is_file())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )
    path, model, *present = done.stdout.split()
    assert path.startswith(str(tmp_path))
    assert model.startswith(str(tmp_path))
    assert present == ["True", "True"]
