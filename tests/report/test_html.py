"""report.html: whole, safe, and drawn from the report alone."""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from bench_search import Bench
from emit_line import LINE
from fakes import FakeRunner, surroundings
from test_report import manifest

from autotune.driver.runner import Outcome
from autotune.report import html as page
from autotune.report.analysis import front
from autotune.report.build import Context, build
from autotune.report.figures import bars
from autotune.search.objective import objective_named
from autotune.shared.engines import built_in
from autotune.shared.records import Failure, Screen, Trial
from autotune.space import baseline
from autotune.space.knobs import KNOBS

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & 'q' \u202e"
LIMIT = 6 * 2**20


class Elements(HTMLParser):
    """The tags with their attributes, and the text of each script."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.words = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)


def report_of(tmp_path, runner, name="model", objective="throughput"):
    result = Bench(tmp_path).search(runner, trials=25)
    context = Context(
        manifest=manifest(name),
        metrics=("f1",),
        objective=objective_named(objective),
        line=LINE,
        elapsed_s=1.0,
    )
    return build(result, context)


def read(report):
    found = Elements()
    text = page.html(report)
    found.feed(text)
    return text, found


def test_nothing_comes_from_elsewhere_and_it_is_small_enough(tmp_path):
    text, found = read(report_of(tmp_path, FakeRunner()))
    assert len(text.encode()) < LIMIT
    assert not [tag for tag, _ in found.tags if tag in ("link", "iframe", "object", "img")]
    assert not [attrs for _, attrs in found.tags if {"src", "href"} & set(attrs)]
    (policy,) = [a["content"] for _, a in found.tags if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")


def test_every_picture_has_its_place_and_its_data(tmp_path):
    report = report_of(tmp_path, FakeRunner())
    _, found = read(report)
    places = [a["id"] for _, a in found.tags if a.get("id", "").startswith("figure-")]
    data = json.loads(found.scripts[1])
    assert places == [f"figure-{n}" for n in range(len(data))]
    assert len(data) == 6
    measured = sum(len(trace["x"]) for trace in data[0]["data"] if trace["mode"] == "markers")
    assert measured == len(report["points"])
    words = " ".join(found.words)
    assert "".join(report["verdict"].split()) in "".join(words.split())


def test_every_mode_has_a_colour():
    colours = {mode: engine.colour for mode, engine in built_in().items()}
    assert set(colours) == set(KNOBS["mode"].allowed)
    assert len(set(colours.values()) - {None}) == len(colours)


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_what_was_screened_out_stands_hatched_among_the_speeds(tmp_path, objective):
    class Screening(FakeRunner):
        def run(self, config, rule):
            if config["mode"] != "ipex":
                return super().run(config, rule)
            screen = Screen(batches=(0,), batch_s=(1.0,), pass_s=5.0, phases_s={})
            return Outcome(failure=Failure(kind="slow", detail="screened out"), screen=screen)

    report = report_of(tmp_path, Screening(), objective=objective)
    found = bars(report)
    assert {bar.name for bar in found if bar.hatched} == {one["name"] for one in report["screened"]}
    assert any(bar.hatched for bar in found)
    assert all(bar.words[0] in "~≥≤" for bar in found if bar.hatched)
    values = [bar.value for bar in found]
    assert values == sorted(values, reverse=objective == "latency")  # the best on top


def test_names_and_words_are_escaped(tmp_path):
    class Failing(FakeRunner):
        def run(self, config, rule):
            if config["mode"] == "ipex":
                return Outcome(failure=Failure(kind="crash", detail=HOSTILE))
            return super().run(config, rule)

    text, found = read(report_of(tmp_path, Failing(), name=HOSTILE))
    assert len(found.scripts) == 3
    assert HOSTILE not in text
    assert not [attrs for _, attrs in found.tags if "onerror" in attrs]
    assert any(HOSTILE in words for words in found.words)
    shown = page.embedded({"name": HOSTILE})
    assert "<" not in shown
    assert json.loads(shown) == {"name": HOSTILE}


def test_a_search_that_found_nothing_has_a_page(tmp_path):
    class Failing(FakeRunner):
        def run(self, config, rule):
            if config["mode"] == "eager" and config["precision"] == "fp32":
                return super().run(config, rule)
            return Outcome(failure=Failure(kind="crash", detail="gone"))

    report = report_of(tmp_path, Failing())
    _, found = read({**report, "huggingface": None})
    assert not report["significant"] or report["best"]["config"]["mode"] == "eager"
    assert any("crash" in words for words in found.words)


def test_a_search_without_a_baseline_has_a_page_of_what_failed():
    trial = Trial(
        number=0,
        origin="baseline",
        config=baseline(surroundings()),
        started="2026-01-01T00:00:00+00:00",
        duration_s=1.0,
        failure=Failure(kind="crash", detail=HOSTILE),
        log="Segmentation fault",
    )
    asked = {**manifest(HOSTILE), "command_line": ["search", "--model", HOSTILE]}
    text = page.failed(asked, [trial], "the baseline failed")
    found = Elements()
    found.feed(text)
    assert HOSTILE not in text
    assert not found.scripts
    words = " ".join(found.words)
    for said in ("the baseline failed", "crash", "Segmentation fault", "autotune doctor", "CPU"):
        assert said in words


@pytest.mark.parametrize(("maximize", "expected"), [(True, [3, 1]), (False, [2, 3])])
def test_the_front_holds_what_nothing_beats(maximize, expected):
    points = [
        {"trial": 1, "value": 1.0, "metric": 90.0},
        {"trial": 2, "value": 0.5, "metric": 80.0},
        {"trial": 3, "value": 2.0 if maximize else 0.7, "metric": 85.0 if maximize else 95.0},
        {"trial": 4, "value": 2.5, "metric": None},
    ]
    assert front(points, maximize) == expected


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.mark.parametrize("width", [1400, 500])
def test_a_browser_draws_every_picture_and_complains_of_nothing(tmp_path, width):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("needs Chromium")
    report = report_of(tmp_path, FakeRunner())
    file = tmp_path / "report.html"
    file.write_text(page.html(report))
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},3000"),
            *("--virtual-time-budget=10000", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    found = Elements()
    found.feed(done.stdout)
    places = [a["id"] for _, a in found.tags if a.get("id", "").startswith("figure-")]
    drawn = [a for tag, a in found.tags if tag == "svg" and "main-svg" in a.get("class", "")]
    assert len(places) == 6
    assert len(drawn) >= len(places)
