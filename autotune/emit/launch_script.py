"""launch.sh: a script in the run's folder that starts the workers as the search did.

Its constant text is launch.sh.in and launch_worker.sh.in.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

import numpy as np

from autotune.driver.command import INHERITED_PREFIX, INHERITED_VARIABLES, Command
from autotune.driver.runner import Inputs, measure_request, open_request, serve_request
from autotune.emit.huggingface import ScriptLine
from autotune.search.serving import requests_at
from autotune.shared.records import Config, dumps
from autotune.shared.stopping import StoppingRule

WORKLOAD = "workload"
CALIBRATION = "workload/calibration"
LAUNCH_RULE = StoppingRule(
    min_passes=3, max_passes=40, half_width=0.0, budget_s=5.0, patience_s=10.0
)
"""How long launch.sh measures: at least 3 passes, then up to 5 s."""
THEN = "AUTOTUNE_THEN"
"""Environment variable of launch.sh: a folder with two pipes for each worker, `0/requests` and
`0/replies`. After launch.jsonl the workers answer the requests in their pipes."""
LAUNCH_SERVING_S = 15.0
"""Seconds for which launch.sh serves requests, where the objective is a rate of requests."""
PLACEHOLDER = re.compile("@([A-Z_]+)@")


def filled(template: str, **values: str) -> str:
    """The text of a file beside this one, with `@NAME@` replaced by the value of each name.

    A value is never searched for names: `@TITLE@` in a model's name stays as it is.
    """
    text = resources.files(__package__).joinpath(template).read_text(encoding="utf-8")
    return PLACEHOLDER.sub(lambda found: values[found[1]], text)


def quote(text: str) -> str:
    """`text` as one shell word, whatever is in it."""
    return shlex.quote(text)


def comment(text: str) -> str:
    """`text` for a comment line: characters that could end the line are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def requests(
    config: Config,
    inputs: Inputs,
    cache: str | None = None,
    *,
    rule: StoppingRule = LAUNCH_RULE,
    rate: float | None = None,
    features: int = 0,
) -> str:
    """launch.jsonl: the search's own requests of one measurement, with paths in the run's folder.

    `cache` is the prepared engine's folder, `rule` how long to measure. With `rate` (requests a
    second) a request to serve `features` rows for LAUNCH_SERVING_S follows; every instance serves
    its share of the rate.
    """
    here = replace(
        inputs,
        features=WORKLOAD,
        calibration=CALIBRATION if inputs.calibration else None,
        cache=cache,
    )
    lines: list[dict[str, object]] = [
        {"id": 1, "op": "open", "args": open_request(config, here)},
        {"id": 2, "op": "measure", "args": measure_request(config, rule)},
    ]
    if rate is not None:
        rows, arrivals_s = requests_at(
            rate / int(config["instances"]), LAUNCH_SERVING_S, features, np.random.default_rng(0)
        )
        lines.append({"id": 3, "op": "serve", "args": serve_request(config, rows, arrivals_s)})
    return "".join(dumps(line) + "\n" for line in lines)


def worker_lines(commands: Sequence[Command]) -> str:
    """The lines that start every worker in the background and report its exit code."""
    together = ' \\\n    --together "$work"' if len(commands) > 1 else ""
    return "".join(
        filled(
            "launch_worker.sh.in",
            INDEX=str(index),
            VARIABLES=" \\\n    ".join(
                f"{name}={quote(value)}" for name, value in sorted(command.variables.items())
            ),
            COMMAND=" ".join(quote(word) for word in command.argv),
            TOGETHER=together,
            THEN=THEN,
        )
        for index, command in enumerate(commands)
    )


def script_comment(line: ScriptLine) -> str:
    """Comment lines: Hugging Face's own command line, and the knobs it cannot express."""
    variables = " ".join(f"{k}={quote(v)}" for k, v in sorted(line.variables.items()))
    words = " ".join(quote(word) for word in line.argv)
    command = "\n".join(f"#   {comment(part)}" for part in f"{variables} {words}".split("\n"))
    missing = "# It expresses the whole configuration."
    if line.not_expressed:
        parts = "\n".join(f"#   - {comment(part)}" for part in line.not_expressed)
        missing = f"# It cannot express, so it will be slower than this script:\n{parts}"
    return f"""#
# The nearest command line of Hugging Face's own script
# ({comment(line.source)}):
#
{command}
#
{missing}
"""


def launch_script(
    commands: Sequence[Command],
    *,
    title: str,
    line: ScriptLine | None,
    checker: Sequence[str],
    scorer: Sequence[str],
) -> str:
    """The script's text. `commands` are those of `driver.command.worker_commands`.

    `checker` is the command that says what has changed since the search; its argument is the
    run's folder. If it fails, no worker is started. `scorer` judges the workers' replies; its
    arguments are the run's folder, the folder of the replies and the script's own arguments.
    """
    return filled(
        "launch.sh.in",
        TITLE=comment(title),
        SCRIPT_LINE="" if line is None else script_comment(line),
        CHECKER=" ".join(quote(word) for word in checker),
        INHERITED_VARIABLES=" ".join(INHERITED_VARIABLES),
        INHERITED_PREFIX=INHERITED_PREFIX,
        WORKERS=worker_lines(commands),
        SCORER=" ".join(quote(word) for word in scorer),
    )
