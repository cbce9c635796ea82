"""What a report says in words: on the terminal, in report.md and in report.html."""

from __future__ import annotations

import copy
import io
import json
import math
import re
from dataclasses import replace
from html import unescape

import pytest
from bench_search import Bench
from emit_line import LINE
from fakes import FakeRunner, pass_seconds
from test_report import manifest

from autotune.cli.result import show_result
from autotune.report import html as page
from autotune.report.build import Context, build
from autotune.report.schema import Report
from autotune.report.text import launch_sentence, limit_sentence, markdown, table
from autotune.search.objective import objective_named
from autotune.search.result import conclude
from autotune.shared.records import Config
from autotune.space.knobs import describe


def context(**changes):
    asked = manifest("model")
    asked["model"] |= {"padding": {"side": "left", "token": 7, "given": True}}
    values = {
        "manifest": asked,
        "metrics": ("f1",),
        "objective": objective_named("throughput"),
        "line": LINE,
        "elapsed_s": 120.0,
    }
    return Context(**{**values, **changes})


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("search")).search(FakeRunner(), trials=14)


@pytest.fixture
def report(result):
    """A report that a test may change."""
    return json.loads(json.dumps(build(result, context())))


def printed(report, folder, monkeypatch):
    """What the terminal shows at the end of a search."""
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, "utf-8"))
    show_result(report, folder)
    return " ".join(raw.getvalue().decode().split())


def drawn(report):
    """The words of report.html, without its scripts."""
    body = page.html(report).partition("<body>")[2].partition("<script>")[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def written(report):
    """report.md, with its escapes undone."""
    return " ".join(re.sub(r"\\(.)", r"\1", markdown(report)).split())


@pytest.fixture
def everywhere(monkeypatch, tmp_path):
    """A report's words in each of the three places."""

    def show(report):
        return {
            "terminal": printed(report, tmp_path, monkeypatch),
            "report.md": written(report),
            "report.html": drawn(report),
        }

    return show


JUDGED = {
    "metric": "exact_match",
    "rows": 194,
    "loss": -0.0208,
    "low": -0.0479,
    "high": 0.0063,
    "certainty": "proven",
    "rows_to_prove": None,
    "score_drift": None,
}


def test_a_gain_in_accuracy_is_called_a_gain_everywhere(report, everywhere):
    report["accuracy"] = JUDGED
    wanted = (
        "Its exact match gains 2.08% (from a loss of 0.63% to a gain of 4.79%) of the baseline's "
        "on 194 rows: proven within the limit of 1.0%."
    )
    for place, words in everywhere(report).items():
        assert wanted in words, place
        assert "-2.08" not in words, place


def test_a_loss_is_said_with_its_interval_and_what_would_prove_it(report, everywhere):
    certainty = {"certainty": "not proven", "rows_to_prove": 900}
    drift = {"score_drift": {"largest": 0.1234, "p99": 0.05}}
    loss = {"loss": 0.004, "low": 0.001, "high": 0.021}
    report["accuracy"] = {**JUDGED, **loss, **certainty, **drift}
    wanted = (
        "Its exact match loses 0.40% (0.10% to 2.10%) of the baseline's on 194 rows: within the "
        "limit of 1.0%, not proven on 194 rows (about 900 would prove it). Scores differ by at "
        "most 0.123, and 99% of them by at most 0.050."
    )
    for place, words in everywhere(report).items():
        assert wanted in words, place


def test_the_padding_that_the_model_was_found_to_need_is_said(report):
    wanted = (
        "rows are padded on the left with token 7, which the model was given because it has no "
        "padding token of its own"
    )
    assert wanted in written(report)
    assert wanted in drawn(report)
    assert report["model"]["padding"] == {"side": "left", "token": 7, "given": True}
    report["model"]["padding"]["given"] = False
    for words in (written(report), drawn(report)):
        assert "rows are padded on the left with token 7" in words
        assert "was given" not in words
    del report["model"]["padding"]  # a run of an older version
    for words in (written(report), drawn(report)):
        assert "are padded" not in words


def test_the_gain_is_a_product_of_its_parts_everywhere(result, report, everywhere):
    best, base = result.best.config, result.baseline.config
    gain = pass_seconds(base) / pass_seconds(best)
    factors = report["gain"]["factors"]
    assert math.prod(one["gain"]["median"] for one in factors) == pytest.approx(gain)
    assert "padding" in [one["name"] for one in factors]
    parts = " x ".join(
        f"{one['gain']['median']:.2f} {one['name']} ({one['gain']['low']:.2f} to "
        f"{one['gain']['high']:.2f})"
        for one in factors
    )
    for place, words in everywhere(report).items():
        assert f"{gain:.1f}x = {parts}." in words, place
    assert set(Report.__annotations__) >= {"gain", "dynamic_baseline"}


def test_parts_that_do_not_multiply_to_the_gain_are_said_not_to(report, everywhere):
    report["gain"]["factors"][0]["gain"]["median"] *= 3
    product = math.prod(one["gain"]["median"] for one in report["gain"]["factors"])
    wanted = f"The parts were measured after the finals, and multiply to {product:.1f}x."
    for place, words in everywhere(report).items():
        assert wanted in words, place


def test_the_verdict_compares_with_the_baseline_of_dynamic_padding_too(result, report, everywhere):
    best, base = result.best.config, result.baseline.config
    dynamic = Config.of({**base, "padding": "longest"})
    assert report["dynamic_baseline"]["config"] == dict(dynamic)
    over = pass_seconds(dynamic) / pass_seconds(best)
    assert report["gain"]["over_dynamic"]["median"] == pytest.approx(over)
    for place, words in everywhere(report).items():
        assert f"and {over:.1f}x as fast as the same with dynamic padding" in words, place


def test_no_row_shows_a_baseline_twice(report):
    _, rows = table(report)
    shown = [row[1] for row in rows]
    assert len(shown) == len(set(shown))
    baselines = {report[side]["description"] for side in ("baseline", "dynamic_baseline")}
    assert baselines < set(shown)
    assert not baselines & {row[1] for row in rows if row[0].startswith("eager")}


def test_the_rows_are_sorted_with_the_best_on_top_and_the_baselines_last(report):
    _, rows = table(report)
    speeds = [float(row[2].strip("~≥≤ ").removesuffix("/s")) for row in rows]
    assert rows[0][0] == "best"
    assert [row[0] for row in rows[-2:]] == ["baseline, dynamic padding", "baseline"]
    assert speeds == sorted(speeds, reverse=True)


def of_baselines(result, elapsed_s=120.0, significant=False, **changes):
    """The report of a search that had no time for more than the two baselines, 7 s each."""
    first = [replace(trial, duration_s=7.0) for trial in result.trials[:2]]
    assert [trial.origin for trial in first] == ["baseline", "dynamic"]
    if not significant:  # padding gives nothing
        first[1] = replace(first[1], measurement=first[0].measurement)
    from autotune.search.finals import Finals

    short = conclude(first, Finals(objective_named("throughput"), None))
    asked = context(elapsed_s=elapsed_s)
    return json.loads(json.dumps(build(replace(short, **changes), asked)))


def test_a_search_that_tried_nothing_says_so_and_how_long_would_do(result, everywhere):
    """120 s, of which two baselines took 14 s: 106 s of other work, 8 trials of 7 s, and 100 s for
    the finals are 262 s. That is 4.4 minutes, and more than twice 120 s."""
    report = of_baselines(result)
    wanted = "was tried in the time, 120 s, so nothing can be recommended. Search for longer: "
    for place, words in everywhere(report).items():
        assert "Nothing but the baseline (eager fp32" in words, place
        assert wanted + "--time-budget 5m is about enough here." in words, place
        assert "eep the baseline" not in words, place
        assert "No significant gain" not in words, place
    again = of_baselines(result, elapsed_s=1200.0)  # twice 1200 s are 40 minutes
    assert "--time-budget 40m" in again["verdict"]
    broken_off = of_baselines(result, interrupted=True)
    assert "was tried before the interrupt" in broken_off["verdict"]


def test_the_page_of_a_search_that_tried_nothing_has_no_verdict_in_red(result):
    text = page.html(of_baselines(result))
    (number,) = re.findall(r'<div class="number (\w+)">([^<]*)</div>', text)
    assert number == ("none", "not searched")
    assert "1.0x" not in text.partition("<table")[0].partition("<body>")[2]


def test_a_gain_of_padding_alone_is_not_the_end_of_a_search(result, everywhere):
    report = of_baselines(result, significant=True)
    assert report["significant"]
    assert report["trials"]["others"] == 0
    assert page.headline(report)["number"] == "1.6x"  # 10 s to 6.25 s on this machine
    for place, words in everywhere(report).items():
        assert "Nothing else was tried. Search for longer: --time-budget 5m" in words, place


def test_a_search_that_tried_others_in_vain_says_to_keep_the_baseline(result):
    nothing = replace(result, significant=False, best=result.baseline)
    report = build(nothing, context())
    assert report["verdict"].startswith(f"No significant gain: none of {len(result.others)} ")
    assert report["verdict"].endswith("Keep the baseline.")
    assert page.headline(report)["words"] == "no significant gain: keep the baseline"


def test_warnings_come_before_the_number(report):
    report["noise"]["quiet"] = False
    text = page.html(report)
    assert text.index('class="warning"') < text.index('class="number')


CHECK = {
    "objective": "throughput",
    "measured": {"median": 9.0},
    "promised": {"median": 10.0},
    "ratio": 0.99,
    "consistent": True,
    "metrics": {"f1": 100.0},
    "promised_metrics": {"f1": 100.0},
    "same_metrics": True,
    "phases_s": {"start": 0.5, "import": 3.25, "prepare": 1.0, "warm_up": 0.25, "measure": 9.0},
}


def test_the_cold_start_is_that_of_the_processes_of_launch_sh(report):
    """A forked worker of the search has paid for its start and imports before: 0.0 s of import
    would be no answer."""
    for side in ("baseline", "best"):
        report[side]["effective"]["forked"] = True
        report[side]["phases_s"] = {"import": 0.0, "prepare": 1.5, "warm_up": 0.5}
    report["launch_check"] = CHECK
    rows = {name: (before, best) for name, before, best in page.comparison(report)}
    assert rows["start-up in the search"] == ("prepare 1.5 s, warm up 0.5 s",) * 2
    told = "5.0 s: start 0.5 s, import 3.2 s, prepare 1.0 s, warm up 0.2 s"  # without measuring
    assert rows["cold start of launch.sh"] == ("not measured", told)
    report["best"]["effective"]["forked"] = False
    rows = {name: best for name, _, best in page.comparison(report)}
    assert rows["start-up in the search"].startswith("import 0.0 s, prepare")
    report["launch_check"] = None
    assert "cold start of launch.sh" not in {row[0] for row in page.comparison(report)}


@pytest.mark.parametrize(
    ("ratio", "first", "tries"), [(0.08, 0.09, " (9% at a first try)"), (0.5, None, "")]
)
def test_a_script_that_falls_short_is_a_warning(report, everywhere, ratio, first, tries):
    report["launch_check"] = {**CHECK, "ratio": ratio, "consistent": False}
    if first is not None:
        report["launch_check"]["first_ratio"] = first
    wanted = f"launch.sh reached only {ratio:.0%} of the reported speed{tries}, with the same f1. "
    for place, words in everywhere(report).items():
        assert wanted + "Do not rely on the reported speed" in words, place
    assert f'<p class="warning">launch.sh reached only {ratio:.0%}' in page.html(report)
    report["launch_check"] = CHECK
    assert '<p class="warning">launch.sh' not in page.html(report)


def test_a_faster_script_is_no_warning():
    faster = {**CHECK, "ratio": 1.4, "consistent": False}
    words = launch_sentence({"launch_check": faster, "metrics": ["f1"]})
    assert words.startswith("launch.sh ran at 140% of the reported speed, with the same f1.")
    assert "only" not in words


@pytest.mark.parametrize(
    ("per_s", "words"),
    [
        (996e9, "Its matrix products run as fast as this host can in bf16. Only less work would"),
        (498e9, "Its matrix products run at 50% of this host's peak speed in bf16."),
    ],
)
def test_the_limit_of_the_host_is_said_in_words(report, per_s, words):
    report = copy.deepcopy(report)
    report["best"]["config"]["precision"] = "bf16"
    report["limit"] = {"operations": 1.0, "per_s": per_s, "threads": 2, "peaks": {"bf16": 996e9}}
    assert limit_sentence(report).startswith(words)
    assert "GFLOP" not in written(report) + drawn(report)
    assert words in written(report)
    assert words in drawn(report)


def test_the_best_is_described_where_the_verdict_names_it(result, report):
    assert report["verdict"].startswith(f"{describe(result.best.config)} is ")
