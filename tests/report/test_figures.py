"""The pictures: what each shows, against numbers worked out by hand."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import pytest
from bench_search import Bench
from fakes import FakeRunner, measurement, surroundings
from fakes import trial as trial_of
from test_text import context

from autotune.report import html as page
from autotune.report.analysis import QUANTILES, example_quantiles
from autotune.report.build import build
from autotune.report.figures import around, bars, figures, longer_bars, plain_ticks
from autotune.search.objective import objective_named
from autotune.shared.records import Pass


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    result = Bench(tmp_path_factory.mktemp("search")).search(FakeRunner(), trials=25)
    return json.loads(json.dumps(build(result, context())))


@pytest.fixture
def report(kept):
    """A report that a test may change."""
    return json.loads(json.dumps(kept))


def titled(report):
    return {one["title"]: one for one in figures(report)}


def test_speeds_have_their_unit(report):
    found = titled(report)
    by_speed = ("Accuracy against speed", "Speed by engine and precision", "What each knob reached")
    for title in by_speed:
        assert found[title]["figure"]["layout"]["xaxis"]["title"]["text"] == "examples/s"
    progress = found["Progress of the search"]["figure"]["layout"]
    assert progress["yaxis"]["title"]["text"] == "examples/s"
    rows = {name: best for name, _, best in page.comparison(report)}
    assert re.fullmatch(r"[\d.]+ examples/s \([\d.]+ to [\d.]+\)", rows["throughput"])


def test_a_latency_is_in_milliseconds(tmp_path):
    """On the made-up machine, ten examples of the baseline take 10 s / 0.6, one after another."""
    bench = Bench(tmp_path)
    result = bench.search(FakeRunner(), trials=8, where=surroundings("latency"))
    report = json.loads(json.dumps(build(result, context(objective=objective_named("latency")))))
    figure = titled(report)["Speed by engine and precision"]["figure"]
    assert figure["layout"]["xaxis"]["title"]["text"] == "ms (p90 of one example)"
    (trace,) = figure["data"]
    shown = dict(zip(trace["y"], trace["x"], strict=True))
    assert shown["eager (the baseline)"] == pytest.approx(1000 / 0.6)


def test_the_line_of_the_gate_says_what_it_is(report):
    """The baseline's f1 is 100, and 1% less is allowed."""
    (shape,) = titled(report)["Accuracy against speed"]["figure"]["layout"]["shapes"]
    assert shape["label"]["text"] == "limit of the gate: f1 99.00"
    assert shape["y0"] == shape["y1"] == pytest.approx(99.0)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.3, 0.9, [0.2, 0.5, 1]),
        (1.0, 1.0, [1]),
        (1.7, 48.0, [1, 2, 5, 10, 20, 50]),
        (99.0, 1001.0, [50, 100, 200, 500, 1000, 2000]),
    ],
)
def test_time_axes_have_plain_ticks(low, high, ticks):
    assert plain_ticks(low, high) == pytest.approx(ticks)


def test_ticks_are_written_as_plain_numbers(report):
    axis = titled(report)["Time of an example"]["figure"]["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert len(axis["ticktext"]) == len(axis["tickvals"])
    assert all(re.fullmatch(r"\d+(\.\d+)?", text) for text in axis["ticktext"])
    assert [float(text) for text in axis["ticktext"]] == pytest.approx(axis["tickvals"])


def test_batches_of_different_sizes_compare_by_the_time_of_an_input():
    """Batches of 8, 2 and 1 inputs take 0.8 s, 0.4 s and 0.1 s: 0.1, 0.2 and 0.1 s an input."""
    one = replace(
        measurement(1.0),
        batch_features=(8, 2, 1),
        features=11,
        examples=11,
        passes=(Pass(batch_s=(0.8, 0.4, 0.1)),),
    )
    found = example_quantiles([trial_of(measurement=one)])
    assert len(found) == QUANTILES
    assert (found[0], found[-1]) == (pytest.approx(0.1), pytest.approx(0.2))
    assert found[50] == pytest.approx(0.1)  # two of three batches
    again = example_quantiles([trial_of(measurement=one), trial_of(measurement=one)])
    assert again == pytest.approx(found)


def test_each_instance_divides_by_its_own_batches():
    """Two instances share a pass: 0.6 s for 6 inputs, then 0.6 s for 2."""
    passes = (
        Pass(batch_s=(0.6,), instance=0, share=0.75),
        Pass(batch_s=(0.6,), instance=1, share=0.25),
    )
    shared = replace(measurement(1.0), batch_features=(6, 2), features=8, passes=passes)
    found = example_quantiles([trial_of(measurement=shared)])
    assert (found[0], found[-1]) == (pytest.approx(0.1), pytest.approx(0.3))


def test_the_colours_of_the_knobs_are_explained_and_alternate(report):
    figure = titled(report)["What each knob reached"]
    assert "Neighbouring knobs have different colours" in figure["about"]
    (trace,) = figure["figure"]["data"]
    colours = {}
    for name, colour in zip(trace["y"], trace["marker"]["color"], strict=True):
        colours.setdefault(name.partition(":")[0], set()).add(colour)
    assert all(len(found) == 1 for found in colours.values())
    in_order = [found.pop() for found in colours.values()]
    assert all(one != other for one, other in itertools.pairwise(in_order))


def change(to, times, allowed=True, knob="batch_size"):
    return {"knob": knob, "from": 8, "to": to, "times": times, "allowed": allowed, "trial": 1}


def test_around_the_best_each_value_has_one_dot():
    """The better of two measurements of a value; an allowed one before one that is wrong."""
    changes = [
        change(4, 0.7),
        change(4, 0.9),
        change(16, 1.5, allowed=False),
        change(16, 0.8),
        change(True, 0.5, knob="huge_pages"),
    ]
    (trace,) = around(changes)["data"]
    dots = dict(zip(trace["y"], trace["x"], strict=True))
    assert len(trace["y"]) == len(dots)
    assert dots == {
        "batch_size: 8 → 4": 0.9,
        "batch_size: 8 → 16": 0.8,
        "huge_pages: 8 → true": 0.5,
    }
    assert set(trace["marker"]["symbol"]) == {"circle"}


def test_the_bar_of_the_best_is_the_row_of_the_best_or_the_picture_says_why(report):
    best = report["best"]
    name = f"{best['config']['mode']} {best['config']['precision']}"
    found = bars(report)
    (own,) = [bar for bar in found if bar.name == name]
    assert own.value == best["objective"]["median"]
    assert longer_bars(found, report) == ""  # nothing is longer on a machine without noise

    (other,) = [e for e in report["best_by_mode"] if e["config"]["mode"] == "eager"][:1]
    other["objective"]["median"] = 2 * best["objective"]["median"]
    words = longer_bars(bars(report), report)
    kind = f"{other['config']['mode']} {other['config']['precision']}"
    assert words.startswith(f" {kind}: better than the best by a single measurement")
    assert words in titled(report)["Speed by engine and precision"]["about"]
    other["failure"] = {"kind": "inaccurate", "detail": "wrong"}  # a hollow bar is no rival
    assert longer_bars(bars(report), report) == ""


def luminance(colour):
    """WCAG 2's relative luminance of `#rrggbb`."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def mixed(colour, opacity, paper):
    parts = [
        round(opacity * int(colour[n : n + 2], 16) + (1 - opacity) * int(paper[n : n + 2], 16))
        for n in (1, 3, 5)
    ]
    return "#" + "".join(f"{part:02x}" for part in parts)


@pytest.mark.parametrize("paper", ["#ffffff", "#15161a"])
def test_hatching_is_seen_on_light_and_on_dark_paper(report, paper):
    report["screened"] = [
        {
            "trial": 1,
            "name": f"{mode} fp16",
            "description": mode,
            "value": 1.0,
            "speedup": 1.0,
            "batches": 6,
            "settled": True,
        }
        for mode in ("eager", "jit", "ipex", "ipex_jit", "inductor", "onnxruntime", "openvino")
    ]
    text = page.html(report)
    assert paper.replace("#ffffff", "#fff") in text  # the page's own paper
    (trace,) = titled(report)["Speed by engine and precision"]["figure"]["data"]
    pattern = trace["marker"]["pattern"]
    hatched = [c for c, s in zip(pattern["fgcolor"], pattern["shape"], strict=True) if s == "/"]
    assert len(hatched) == 7
    for colour in hatched:
        line = luminance(mixed(colour, pattern["fgopacity"], paper))
        ground = luminance(paper)
        brighter, darker = max(line, ground), min(line, ground)
        assert (brighter + 0.05) / (darker + 0.05) >= 1.7, colour


def test_wide_tables_scroll_and_show_a_shadow_where_more_is_hidden(report):
    text = page.html(report)
    tables = re.findall(r"(<div class=\"wide\">)?<table", text)
    assert len(tables) == 2
    assert all(tables)
    (style,) = re.findall(r"\.wide \{([^}]*)\}", text)
    assert "overflow-x: auto" in style
    # Covers that move with the table hide the shadows at its ends (Lea Verou's scrolling shadows).
    assert style.count(" local") == style.count(" scroll") == 2
