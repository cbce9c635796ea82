"""The report as Markdown, and its table for the terminal."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.search.objective import objective_named
from autotune.shared.precisions import known_precisions
from autotune.shared.words import loses_or_gains

COLUMNS = ("", "configuration", "speed", "interval", "speedup")


def escape(text: str) -> str:
    """`text` for a Markdown table or paragraph, with every markup character escaped."""
    flat = " ".join(text.split())
    for char in "\\`*_[]<>|":
        flat = flat.replace(char, "\\" + char)
    return flat


def shown(value: float, objective: Mapping[str, Any]) -> str:
    return f"{value:.1f}/s" if objective["maximize"] else f"{value * 1000:.2f} ms"


def table(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the best, then each engine and precision by speed, then the baselines."""
    objective, base = report["objective"], report["baseline"]
    header = [*COLUMNS, *(name.replace("_", " ") for name in report["metrics"]), "verdict"]
    others = [
        (
            entry["objective"]["median"],
            _row(f"{entry['config']['mode']} {entry['config']['precision']}", entry, report),
        )
        for entry in report["best_by_mode"]
        if entry["id"] != report["best"]["id"]
    ]
    others += [(one["value"], _screened_row(one, report)) for one in report["screened"]]
    others.sort(key=lambda pair: pair[0], reverse=objective["maximize"])
    rows = [row for _, row in others]
    if report["best"]["id"] != base["id"]:
        rows.insert(0, _row("best", report["best"], report))
    second = report["dynamic_baseline"]
    if second is not None and second["id"] != report["best"]["id"]:
        rows.append(_row("baseline, dynamic padding", second, report))
    rows.append(_row("baseline", base, report))
    return header, rows


def _screened_row(one: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    return [
        one["name"],
        one["description"],
        estimated(one, report["objective"]),
        f"{one['batches']} batches",
        f"{_sign(one, True)} {one['speedup']:.1f}x",
        *("-" for _ in report["metrics"]),
        "slow",
    ]


def estimated(screened: Mapping[str, Any], objective: Mapping[str, Any]) -> str:
    """The estimated objective of a screened configuration, e.g. `~ 58.0/s`."""
    return f"{_sign(screened, objective['maximize'])} {shown(screened['value'], objective)}"


def _sign(screened: Mapping[str, Any], maximize: bool) -> str:
    """`~` before an estimate; `≥` or `≤` where the engine was still warming up."""
    if screened["settled"]:
        return "~"
    return "≥" if maximize else "≤"


def _row(label: str, entry: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    objective, own = report["objective"], entry["objective"]
    failure = entry["failure"]
    metrics = entry["metrics"] or {}
    return [
        label,
        entry["description"],
        shown(own["median"], objective),
        _range(own, objective),
        f"{entry['speedup']['median']:.2f}x",
        *(f"{metrics[name]:.2f}" if name in metrics else "-" for name in report["metrics"]),
        failure["kind"] if failure else "allowed",
    ]


def by_reason(unavailable: Mapping[str, str]) -> list[tuple[str, str]]:
    """(Names, reason) of what cannot run here, one entry for each reason."""
    grouped: dict[str, list[str]] = {}
    for name, why in unavailable.items():
        grouped.setdefault(why, []).append(name)
    return [(", ".join(names), why) for why, names in grouped.items()]


def _range(own: Mapping[str, Any], objective: Mapping[str, Any]) -> str:
    if own["samples"] == 1:
        return "one pass"
    return f"{shown(own['low'], objective)} to {shown(own['high'], objective)}"


LAUNCH_MIN_RATIO = 0.8
"""launch.sh falls short if it reaches less than this share of the reported speed."""


def falls_short(check: Mapping[str, Any]) -> bool:
    """Whether launch.sh failed, was much slower than reported, or had other answers."""
    if "error" in check:
        return True
    return check["ratio"] < LAUNCH_MIN_RATIO or not check["same_metrics"]


def launch_sentence(report: Mapping[str, Any]) -> str | None:
    """The speed and accuracy of launch.sh; None where launch.sh was not run."""
    check = report["launch_check"]
    if check is None:
        return None
    if "error" in check:
        return f"launch.sh failed: {check['error']}"
    same = "same" if check["same_metrics"] else "DIFFERENT"
    metric = report["metrics"][0]
    objective, remark = objective_named(check["objective"]), ""
    beside = check.get("beside")
    in_turn = (
        ""
        if beside is None
        else f"{beside['median']:.0%} of the search's speed ({beside['low']:.0%} to "
        f"{beside['high']:.0%})"
    )
    if check["ratio"] < LAUNCH_MIN_RATIO and not objective.by_requests:
        first = check.get("first_ratio")
        tries = "" if first is None else f" ({first:.0%} at a first try)"
        told = (
            f"launch.sh reached only {check['ratio']:.0%} of the reported speed{tries}, with the "
            f"{same} {metric}. "
        )
        if beside is not None:
            told += (
                f"In turn with the search's own process it ran at {in_turn}, so the host has "
                "slowed down since the search. "
            )
        return (
            f"{told}Do not rely on the reported speed: once the host is quiet, measure it again "
            "with `autotune verify`."
        )
    if beside is not None:
        speed = f"ran at {in_turn}"
        if not check["consistent"]:
            remark = f" The host has changed: that is {check['ratio']:.0%} of the reported speed."
    elif not objective.by_requests:
        speed = f"ran at {check['ratio']:.0%} of the reported speed"
        if not check["consistent"]:
            remark = " The intervals do not overlap: the host has changed."
    elif check["ratio"] >= 1:
        speed = "kept the limit at the reported rate"
    else:
        p99_s = objective.p99_s(check["ratio"])
        speed = f"answered the reported rate with a p99 of {1000 * p99_s:.0f} ms"
        remark = " `autotune serve-test` finds a rate that keeps the limit for longer."
    return f"launch.sh {speed}, with the {same} {metric}.{remark}"


NOT_QUIET = "The host was not quiet"


def noise_sentence(noise: Mapping[str, Any]) -> str:
    """How quiet the host was, and what to do if it was not quiet."""
    parts = [f"{noise['disturbed']} of {noise['passes']} passes were disturbed by other work"]
    again = noise["tried_again"]
    if again:
        parts.append(
            f"{again} disturbed {'configuration was' if again == 1 else 'configurations were'} "
            "measured again"
        )
    if noise["reference_spread"] is not None:
        parts.append(f"a fixed reference computation varied by {noise['reference_spread']:.2f}x")
    words = ", ".join(parts[:-1]) + ", and " + parts[-1] if len(parts) > 1 else parts[0]
    words += "."
    if noise["quiet"]:
        return words
    return (
        f"{NOT_QUIET}: {words} Speeds of single configurations are uncertain. The speedup "
        "suffers less, because it compares passes seconds apart. Stop other programs or use "
        "cores of your own, then search again."
    )


def split_sentence(report: Mapping[str, Any]) -> str | None:
    """The gain as a product of its parts, each with its interval; None if it has no parts."""
    gain = report["gain"]
    if not gain["factors"]:
        return None
    parts = " x ".join(
        f"{one['gain']['median']:.2f} {one['name']} "
        f"({one['gain']['low']:.2f} to {one['gain']['high']:.2f})"
        for one in gain["factors"]
    )
    whole = gain["over_baseline"]
    product = math.prod(one["gain"]["median"] for one in gain["factors"])
    words = f"{whole['median']:.1f}x = {parts}."
    if not whole["low"] <= product <= whole["high"]:
        words += f" The parts were measured after the finals, and multiply to {product:.1f}x."
    return words


FIDELITY = "cosine"
"""The main metric of rows without labels: how near the vectors are to those of eager float32."""


def accuracy_sentence(report: Mapping[str, Any]) -> str | None:
    """What accuracy the best configuration loses, and how sure that is.

    `report` holds `accuracy` and `max_accuracy_drop` of report.json.
    """
    found = report["accuracy"]
    if found is None:
        return None
    drift = found["score_drift"]
    scores = (
        ""
        if drift is None
        else f" Scores differ by at most {drift['largest']:.3f}, and 99% of them by at most "
        f"{drift['p99']:.3f}."
    )
    fidelity = (
        " The rows have no labels, so vectors are compared with those of eager float32."
        if found["metric"] == FIDELITY
        else ""
    )
    return f"Its {judged_words(found, report['max_accuracy_drop'])}.{scores}{fidelity}"


def judged_words(found: Mapping[str, Any], limit: float) -> str:
    """How much of its main metric a configuration loses or gains, and how sure that is.

    `found` has the keys of `accuracy` in report.json. `limit` is the largest relative loss that is
    allowed.
    """
    metric = found["metric"].replace("_", " ")
    on = f" on {found['rows']} rows" if found["rows"] else ""  # older runs did not note them
    within = {
        "proven": f"proven within the limit of {limit:.1%}",
        "outside": f"outside the limit of {limit:.1%}",
        "not proven": f"within the limit of {limit:.1%}, not proven{on}",
    }[found["certainty"]]
    if found["rows_to_prove"] is not None:
        within += f" (about {found['rows_to_prove']} would prove it)"
    change = loses_or_gains(found["loss"], found["low"], found["high"])
    return f"{metric} {change} of the baseline's{on}: {within}"


def memory_sentence(report: Mapping[str, Any]) -> str | None:
    """How much memory the best configuration holds; None if that is the baseline."""
    if not report["significant"]:
        return None
    own, base = (_gibibytes(report[name]["own_peak_bytes"]) for name in ("best", "baseline"))
    return f"At its peak it holds {own} of memory, the baseline {base}."


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def engine_sentence(engine: Mapping[str, Any] | None) -> str | None:
    """How much time the kept engine saves."""
    if engine is None:
        return None
    if not engine["kept"]:
        return f"The prepared engine was not kept: {engine['reason']}."
    return (
        f"The prepared engine is kept ({engine['bytes'] / 2**20:.0f} MiB): preparing takes "
        f"{engine['prepare_from_kept_s']:.1f} s with it and {engine['prepare_s']:.1f} s without it."
    )


AT_PEAK = 0.95
"""From this share of the peak on, matrix products run as fast as the host can."""


def limit_sentence(report: Mapping[str, Any]) -> str | None:
    """How near the matrix products come to the host's peak; None where no peak bounds them.

    int8 has no peak that was measured, and fewer operations than counted if the engine skips some.
    """
    limit, config = report["limit"], report["best"]["config"]
    known = known_precisions().get(str(config["precision"]))
    precision = None if known is None else known.peak
    if limit is None or precision not in limit["peaks"]:
        return None
    share = limit["per_s"] / limit["peaks"][precision]
    padded = report["best"]["padded_tokens"] / report["best"]["tokens"] - 1
    padding = f"less padding (now {padded:.0%} of the tokens more), " if "padding" in config else ""
    if share >= AT_PEAK:
        return (
            f"Its matrix products run as fast as this host can in {precision}. Only less work "
            f"would be faster: {padding}lower precision or a smaller model."
        )
    return f"Its matrix products run at {share:.0%} of this host's peak speed in {precision}."


def markdown(report: Mapping[str, Any]) -> str:
    """report.md."""
    header, rows = table(report)
    workload, model = report["workload"], report["model"]
    host = report["host"]
    parts = [
        f"# {escape(str(model['name']))}: {escape(str(workload['task']))}",
        escape(report["verdict"]),
    ]
    sentences = (
        split_sentence(report),
        accuracy_sentence(report),
        limit_sentence(report),
        memory_sentence(report),
        engine_sentence(report["engine"]),
        launch_sentence(report),
    )
    parts += [escape(sentence) for sentence in sentences if sentence]
    if report["interrupted"]:
        parts.append("The search was interrupted. This is the best configuration so far.")
    parts += [
        "## Results",
        _markdown_table(header, rows),
        "Speeds are medians over passes of the whole workload. An interval is the narrowest "
        "pair of order statistics that contains the median with 95% probability. With fewer than "
        "six passes the interval is their range, and report.json has its probability "
        "(`coverage`). `baseline` and `best` were measured in turn in the finals, after the "
        "search. The speedup of `best` is the median of the rounds' ratios.",
        "## Search",
        f"{report['trials']['measured']} configurations in {report['elapsed_s']:.0f} s, "
        f"suggested by the sampler {report.get('sampler', 'autotune')}: "
        f"{report['trials']['succeeded']} succeeded, {report['trials']['failed']} failed, "
        f"were rejected or screened out; {report['trials']['finals']} visits of the finals.",
        noise_sentence(report["noise"]).replace(NOT_QUIET, f"**{NOT_QUIET}**"),
    ]
    if report["failures"]:
        parts.append("### Failures")
        parts.append(
            "\n".join(
                f"- **{kind}** ({len(items)}): {escape(items[0]['description'])}: "
                f"{escape(items[0]['detail'])[:300]}"
                for kind, items in report["failures"].items()
            )
        )
    if report["unavailable"]:
        parts.append("### Not available here")
        parts.append(
            "\n".join(
                f"- {escape(names)}: {escape(why)}"
                for names, why in by_reason(report["unavailable"])
            )
        )
    parts += ["## Run it", "`bash launch.sh` reproduces the best configuration.", *_script(report)]
    parts += [
        "## Where",
        f"- host: {escape(str(host['model_name']))}, {host['cores']} cores, "
        f"{host['memory_gib']} GiB",
        *(_stack_line(name, stack) for name, stack in report["stacks"].items()),
        f"- workload: {workload['examples']} examples, {workload['features']} features"
        + _lengths(workload),
    ]
    padding = padding_words(model)
    if padding is not None:
        parts.append(f"- {padding}")
    return "\n\n".join(parts) + "\n"


def padding_words(model: Mapping[str, Any]) -> str | None:
    """How rows are padded. None for a run of an older version, which did not note it."""
    padding = model.get("padding")
    if padding is None:
        return None
    words = f"rows are padded on the {padding['side']} with token {padding['token']}"
    if padding["given"]:
        words += ", which the model was given because it has no padding token of its own"
    return words


def _lengths(workload: Mapping[str, Any]) -> str:
    """How long the rows of a workload are. Empty for inputs without a width."""
    longest = workload["max_seq_length"]
    return (
        f" of at most {longest} tokens ({workload['tokens']} tokens in all)" if longest > 1 else ""
    )


def command(report: Mapping[str, Any]) -> str:
    """Hugging Face's command line as a user types it; empty for a task without a script."""
    line = report["huggingface"]
    if line is None:
        return ""
    settings = " ".join(f"{k}={shlex.quote(v)}" for k, v in line["settings"].items())
    return f"{settings} {shlex.join(line['argv'])}"


def _script(report: Mapping[str, Any]) -> list[str]:
    """Paragraphs with Hugging Face's command line; none for a task without a script."""
    line = report["huggingface"]
    if line is None:
        return []
    words = command(report)
    fence = "`" * (3 + _longest_run(words, "`"))
    parts = [
        f"The nearest command line of Hugging Face's own script ({escape(line['source'])}):",
        f"{fence}sh\n{words}\n{fence}",
    ]
    if line["not_expressed"]:
        parts.append("It cannot express:")
        parts.append("\n".join(f"- {escape(part)}" for part in line["not_expressed"]))
    return parts


def _stack_line(name: str, stack: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in stack["versions"].items())
    return f"- stack {escape(name)}: Python {stack['python_version']}, {escape(versions)}"


def _longest_run(text: str, char: str) -> int:
    longest = current = 0
    for c in text:
        current = current + 1 if c == char else 0
        longest = max(longest, current)
    return longest


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell if set(cell) == {"-"} else escape(cell) for cell in line) + " |"
        for line in lines
    )
