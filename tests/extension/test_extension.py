"""A package outside the tree adds an engine and a task: no file of autotune knows of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import command

from autotune import demo
from autotune.shared.engine import EngineFile
from autotune.shared.errors import TrialFailure
from autotune.tasks import task_named
from autotune.worker.engines import find_engine

PACKAGE = Path(__file__).parent / "package"
TREE = Path(__file__).parents[2]
SEARCH = ("search", "--model", "demo", "--accept-degenerate", "--quiet")


def run(*line, package=PACKAGE, cwd=None):
    """Run a command with the package visible as if it were installed."""
    path = os.pathsep.join([str(package), str(TREE)])
    done = subprocess.run(
        [str(word) for word in line],
        env={**os.environ, "PYTHONPATH": path},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def autotune(*arguments, package=PACKAGE, stub=False, cwd=None):
    return run(*command(*arguments, stub=stub), package=package, cwd=cwd)


def python(code, package=PACKAGE):
    """What `code` prints as JSON, and its standard error."""
    done = run(sys.executable, "-c", f"import json\n{code}", package=package)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_tree_does_not_name_what_the_package_adds():
    for path in [*(TREE / "autotune").rglob("*.py"), *(TREE / "search_spaces").glob("*.yaml")]:
        text = path.read_text(encoding="utf-8")
        assert "doubled_engine" not in text, path
        assert "parity_task" not in text, path


def test_the_engine_is_a_mode_with_its_options_a_colour_and_an_extra():
    found, errors = python(
        "from autotune.space.knobs import KNOBS\n"
        "from autotune.report.figures import colour_of\n"
        "from autotune.driver.stacks import known_extras, requirements\n"
        "import sys\n"
        "print(json.dumps([KNOBS['mode'].allowed, KNOBS['bf16_method'].needs['mode'],\n"
        "    KNOBS['linear'].needs['mode'], colour_of('doubled'), known_extras()['doubled'],\n"
        "    requirements(['doubled']), 'torch' in sys.modules]))"
    )
    modes, method, linear, colour, distribution, packages, imports_torch = found
    assert errors == ""
    assert modes[-1] == "doubled"
    assert "doubled" in method
    assert "doubled" not in linear
    assert colour.startswith("#")
    assert (distribution, packages) == ("autotune-extension", ["torch"])
    assert not imports_torch


def test_the_space_of_the_task_is_listed_and_a_missing_task_names_it():
    done = autotune("spaces", "list")
    assert done.returncode == 0, done.stderr
    assert "parity" in done.stdout
    done = autotune("search", "--model", "demo", "--task", "paritty")
    assert done.returncode == 2
    assert "did you mean parity?" in done.stderr


def test_requests_carry_the_file_of_the_engine_and_of_no_other():
    found, _ = python(
        "from autotune.driver.runner import Inputs, open_request\n"
        "from autotune.shared.records import ModelSource\n"
        "from autotune.space import Surroundings, complete\n"
        "here = Surroundings(cores=1, attentions=('sdpa',), modes={}, objective='throughput')\n"
        "inputs = Inputs(source=ModelSource(path='m', head='h', outputs={}), features='f',\n"
        "    calibration=None, instruction_sets=())\n"
        "print(json.dumps([open_request(complete(here, {'mode': mode}), inputs)['engine_file']\n"
        "    for mode in ('doubled', 'eager')]))"
    )
    own, none = found
    assert none is None
    assert own["file"] == str(PACKAGE / "doubled_engine.py")
    assert (own["name"], own["attribute"]) == ("doubled", "ENGINE")


def install(folder, entry_points, **files):
    """A package in `folder` with these entry points and files."""
    info = folder / "broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


DESCRIPTOR = (
    "from autotune.shared.engine import EngineDescriptor\n"
    "from autotune.shared.options import Option\n"
    "from autotune.shared.precisions import FP32, Precision\n"
    "ENGINE = EngineDescriptor(name={name!r}, implementation='broken_part:E', "
    "precisions={precisions}, options={options})\n"
)
LINEAR = "(Option(name='linear', default=1, about=''),)"
PRECISION = "(Precision(name='bf16', speed=9, tolerance=1.0),)"


def descriptor(name="odd", precisions="(FP32,)", options="()"):
    return DESCRIPTOR.format(name=name, precisions=precisions, options=options)


def option(**changes):
    values = {"name": "level", "default": 1, "about": "", **changes}
    return f"Option({', '.join(f'{name}={value!r}' for name, value in values.items())})"


@pytest.mark.parametrize(
    ("group", "text", "words"),
    [
        ("engines", "import no_such_module", "ModuleNotFoundError: No module named 'no_such"),
        ("engines", "ENGINE = 1", "must be an EngineDescriptor, got int"),
        ("engines", "raise SystemExit(3)", "SystemExit: 3"),
        ("engines", descriptor(name="other"), "must have the engine's name, which is other"),
        ("engines", descriptor(name="Odd One"), "an engine's name is lower case"),
        ("engines", descriptor(precisions="()"), "must offer a precision"),
        ("engines", descriptor(options=LINEAR), "another option is called linear"),
        ("engines", descriptor(precisions=PRECISION), "another precision is called bf16"),
        ("engines", descriptor(precisions="('fp32',)"), "of type Precision; got 'fp32'"),
        ("engines", descriptor(precisions="(FP32)"), "must be a tuple, with a comma"),
        ("engines", descriptor(options=option()), "must be a tuple, with a comma"),
        ("engines", descriptor(options=f"({option(default=0.5)},)"), "got 0.5"),
        ("engines", descriptor(options=f"({option(default='a', allowed=['a'])},)"), "got list"),
        ("engines", descriptor(options=f"({option()}, {option(about='x')})"), "called level"),
        ("engines", descriptor(options=f"({option(script=['x'])},)"), "unhashable type"),
        ("tasks", "ENGINE = 1", "must be a class derived from Task"),
    ],
)
def test_a_broken_package_is_one_line_and_no_error(group, text, words, tmp_path):
    points = f"[autotune.{group}]\nodd = broken_part:ENGINE\n"
    package = install(tmp_path, points, broken_part=text)
    (modes, tasks), errors = python(
        "from autotune.space.knobs import KNOBS\nfrom autotune.tasks import task_names\n"
        "print(json.dumps([KNOBS['mode'].allowed, task_names()]))",
        package=package,
    )
    assert "odd" not in modes
    assert "odd" not in tasks
    (line,) = errors.splitlines()
    assert line.startswith(f"autotune: warning: autotune.{group} odd of broken: ")
    assert words in line


def test_an_engine_brings_an_option_and_a_precision_of_its_own(tmp_path):
    points = "[autotune.engines]\nodd = broken_part:ENGINE\n"
    text = descriptor(
        precisions="(FP32, Precision(name='int4', speed=5, tolerance=0.5))",
        options="(Option(name='level', allowed=('low', 'high'), default='low', about='how hard', "
        "script='it has no levels'),)",
    )
    package = install(tmp_path, points, broken_part=text)
    (precisions, needs, allowed, gaps, preparing), errors = python(
        "from autotune.space.knobs import KNOBS\n"
        "from autotune.emit.huggingface import script_line\n"
        "from autotune.search.tuner import expect_preparing_s\n"
        "from autotune.space import Surroundings, complete\n"
        "from autotune.tasks.qa import QuestionAnswering\n"
        "here = Surroundings(cores=1, attentions=('sdpa',), modes={}, objective='throughput')\n"
        "config = complete(here, {'mode': 'odd', 'precision': 'int4', 'level': 'high'})\n"
        "line = script_line(config, script=QuestionAnswering.script, transformers='4.52.4',\n"
        "    model='m', data='d', max_seq_length=1, doc_stride=0, variables={})\n"
        "print(json.dumps([KNOBS['precision'].allowed, KNOBS['level'].needs,\n"
        "    KNOBS['level'].allowed, line.not_expressed, expect_preparing_s([])(config)]))",
        package=package,
    )
    assert errors == ""
    assert precisions[-1] == "int4"
    assert needs == {"mode": ["odd"]}
    assert allowed == ["low", "high"]
    words = " ".join(gaps)
    for part in ("mode=odd: the script only", "precision=int4: ", "level=high: it has no levels"):
        assert part in words
    assert preparing > 0


def test_an_option_with_the_name_of_a_knob_is_left_out(tmp_path):
    points = "[autotune.engines]\nodd = broken_part:ENGINE\n"
    text = descriptor(options="(Option(name='threads', default=1, about=''),)")
    package = install(tmp_path, points, broken_part=text)
    (kind, modes), errors = python(
        "from autotune.space.knobs import KNOBS\n"
        "print(json.dumps([KNOBS['threads'].kind, KNOBS['mode'].allowed]))",
        package=package,
    )
    assert kind == "process"
    assert "odd" in modes
    assert "odd of broken: the option threads is left out" in errors


@pytest.mark.parametrize("name", ["objective", "vnni"])
def test_an_option_with_a_name_that_conditions_use_is_left_out(name, tmp_path):
    points = "[autotune.engines]\nodd = broken_part:ENGINE\n"
    text = descriptor(options=f"({option(name=name)},)")
    package = install(tmp_path, points, broken_part=text)
    (is_knob, modes), errors = python(
        "from autotune.space.knobs import KNOBS\n"
        f"print(json.dumps([{name!r} in KNOBS, KNOBS['mode'].allowed]))",
        package=package,
    )
    assert not is_knob
    assert "odd" in modes
    (line,) = errors.splitlines()
    assert f"odd of broken: the option {name} is left out, since conditions use" in line


def test_a_refused_engine_leaves_no_precision(tmp_path):
    points = "[autotune.engines]\nodd = broken_part:ENGINE\n"
    new = "Precision(name='int4', speed=5, tolerance=0.5)"
    text = descriptor(precisions=f"({new}, {PRECISION[1:-2]})")
    package = install(tmp_path, points, broken_part=text)
    (precisions,), errors = python(
        "from autotune.space.knobs import KNOBS\nprint(json.dumps([KNOBS['precision'].allowed]))",
        package=package,
    )
    assert "int4" not in precisions
    assert "another precision is called bf16" in errors


def own_file(**changes):
    values = {
        "name": "doubled",
        "file": str(PACKAGE / "doubled_engine.py"),
        "attribute": "ENGINE",
        "precisions": ("fp32",),
        "distribution": "autotune-extension",
    }
    return EngineFile(**{**values, **changes})


def test_a_worker_finds_the_class_in_the_file():
    descriptor, found = find_engine("doubled", own_file())
    assert (descriptor.name, found.__name__) == ("doubled", "DoubledEngine")


@pytest.mark.parametrize(
    "changes",
    [{"attribute": "NOTHING"}, {"attribute": "FP32"}, {"file": "gone.py", "name": "gone"}],
)
def test_a_worker_says_which_file_holds_no_engine(changes):
    file = own_file(**changes)
    with pytest.raises(TrialFailure, match=f"does not load from {file.file}: ") as caught:
        find_engine(file.name, file)
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("name", ["eager", "openvino"])
def test_a_package_cannot_take_the_place_of_an_engine(name, tmp_path):
    points = f"[autotune.engines]\n{name} = broken_part:ENGINE\n"
    package = install(tmp_path, points, broken_part=descriptor(name=name))
    (file,), errors = python(
        "from autotune.shared.engines import engine_named\n"
        f"print(json.dumps([engine_named({name!r}).file]))",
        package=package,
    )
    assert file is None
    assert "an engine of autotune has this name" in errors


def test_a_package_that_imports_torch_is_told_so(tmp_path):
    points = "[autotune.engines]\nodd = broken_part:ENGINE\n"
    text = "import sys, types\nsys.modules['torch'] = types.ModuleType('torch')\n" + descriptor()
    package = install(tmp_path, points, broken_part=text)
    _, errors = python("import autotune.space.knobs\nprint(1)", package=package)
    assert "odd of broken: it imports torch when it is loaded" in errors


def test_help_reads_no_entry_points(tmp_path):
    points = "[autotune.engines]\nodd = broken_part:ENGINE\n"
    package = install(tmp_path, points, broken_part="raise ValueError")
    done = run(sys.executable, "-m", "autotune", "--help", package=package)
    assert done.returncode == 0
    assert done.stderr == ""


def test_the_task_is_searched_by_its_own_space(tmp_path):
    """With a stub in the place of the model, which answers as the task asks."""
    rows = [
        {"text": " ".join(["word" * (n % 3 + 1), "odd", "x" * n]), "even": None}
        for n in range(1, 25)
    ]
    for row in rows:
        row["even"] = sum(map(len, row["text"].split())) % 2 == 0
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    done = autotune(
        *(*SEARCH, "--task", "parity", "--dataset", tmp_path / "rows.json"),
        *("--trials", "3", "--time-budget", "60s", "--output", tmp_path / "run", "--no-learned"),
        stub=True,
    )
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["workload"]["task"] == "parity"
    assert report["metrics"] == ["accuracy"]
    assert report["baseline"]["metrics"]["accuracy"] == 100.0
    assert report["huggingface"] is None


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A short search of the engine on the embedded model, in a folder of its own.

    All rows are one batch, whose answers the engine remembers from its warm-up.
    """
    folder = tmp_path_factory.mktemp("extension") / "run"
    rows, task = folder.with_name("rows.json"), task_named("qa")
    task.write(task.load(str(demo.DATASET), None).rows[:4], rows)
    done = autotune(
        *(*SEARCH, "--dataset", rows, "--set", "mode=doubled", "--set", "precision=fp32"),
        *("--drop", "openmp", "--drop", "allocator", "--drop", "pinning", "--drop", "omp_wait"),
        *("--set", "padding=length_sorted", "--set", "batch_size=4", "--trials", "2"),
        *("--set", "instances=1", "--output", folder, "--no-learned"),
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.model
def test_doctor_shows_the_engine_and_the_task():
    done = autotune("doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "parity" in found["tasks"]
    stack = found["stacks"]["default"]
    assert stack["modes"]["doubled"]["fp32"] is None
    assert "sympy" in stack["versions"]  # named by its descriptor alone


@pytest.mark.model
def test_doctor_says_why_the_file_of_an_engine_does_not_load(tmp_path):
    points = "[autotune.engines]\nodd = broken_part:ENGINE\n"
    package = install(tmp_path, points, broken_part=descriptor())  # it has no class E
    done = autotune("doctor", "--json", package=package)
    assert done.returncode == 0, done.stderr
    modes = json.loads(done.stdout)["stacks"]["default"]["modes"]
    assert "does not load from" in modes["odd"]["fp32"]
    assert modes["eager"]["fp32"] is None


@pytest.mark.model
def test_a_search_measures_draws_and_writes_the_engine(searched):
    report = json.loads((searched / "report.json").read_text())
    assert report["best"]["config"]["mode"] == "doubled"
    assert report["launch_check"]["same_metrics"], report["launch_check"]
    assert '"name":"doubled"' in (searched / "report.html").read_text().replace(": ", ":")
    assert yaml.safe_load((searched / "best.yaml").read_text())["config"]["mode"] == "doubled"
    assert "doubled" in (searched / "launch.sh").read_text()
    opened = json.loads((searched / "launch.jsonl").read_text().splitlines()[0])
    assert opened["args"]["engine_file"]["file"] == str(PACKAGE / "doubled_engine.py")


@pytest.mark.model
def test_launch_sh_runs_the_engine(searched):
    done = run("bash", searched / "launch.sh", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["same_metrics"]


@pytest.mark.model
def test_launch_sh_says_that_the_file_of_the_engine_is_gone(searched, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(searched, copy)
    text = (copy / "launch.jsonl").read_text()
    gone = str(tmp_path / "gone.py")
    (copy / "launch.jsonl").write_text(text.replace(str(PACKAGE / "doubled_engine.py"), gone))
    path = os.pathsep.join([str(PACKAGE), str(TREE)])
    done = subprocess.run(
        ["bash", copy / "launch.sh"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert f"the engine doubled of autotune-extension does not load from {gone}" in done.stderr


@pytest.mark.model
def test_the_report_of_an_engine_that_is_not_installed_is_written_again(searched, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(searched, copy)
    done = autotune("report", copy, package=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"name":"doubled"' in (copy / "report.html").read_text().replace(": ", ":")


@pytest.mark.model
def test_the_suite_of_all_engines_accepts_the_engine(tmp_path):
    found, _ = python(
        "from pathlib import Path\n"
        "from autotune.testing import check_engine\n"
        f"checked = check_engine('doubled', folder=Path({str(tmp_path)!r}), rows=4)\n"
        "print(json.dumps([[one.knobs['precision'], one.reason] for one in checked]))"
    )
    reasons = dict(found)
    assert reasons["fp32"] is None
    assert set(reasons) == {"fp32", "bf16"}


WRONG = (
    descriptor(name="odd").replace("broken_part:E", "broken_part:WrongEngine")
    + "from autotune.worker.engines.base import Engine, Prepared\n"
    "class WrongEngine(Engine):\n"
    "    @classmethod\n"
    "    def unsupported(cls, precision, environment): return None\n"
    "    def prepare(self, material):\n"
    "        from autotune.worker.engines import torch_model\n"
    "        model = torch_model.load_for(material, str(self.options['attention']))\n"
    "        run = torch_model.apply_precision(model, material, self.options)\n"
    "        return Prepared(call=lambda batch: [2 * one for one in run(batch)])\n"
)


@pytest.mark.model
def test_the_suite_of_all_engines_refuses_an_engine_with_other_answers(tmp_path):
    points = "[autotune.engines]\nodd = broken_part:ENGINE\n"
    package = install(tmp_path / "package", points, broken_part=WRONG)
    (refused,), _ = python(
        "from pathlib import Path\n"
        "from autotune.testing import check_engine\n"
        "try:\n"
        f"    check_engine('odd', folder=Path({str(tmp_path)!r}), rows=4)\n"
        "    refused = False\n"
        "except AssertionError:\n"
        "    refused = True\n"
        "print(json.dumps([refused]))",
        package=package,
    )
    assert refused
