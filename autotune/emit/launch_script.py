"""launch.sh: the workers' own commands, as a script that stands beside the run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autotune.driver.command import INHERITED_VARIABLES, Command
from autotune.driver.runner import POINT_KNOBS, Inputs, measure_request, open_request
from autotune.emit.huggingface import ScriptLine
from autotune.search.serving import requests_at
from autotune.shared.records import Config, StoppingRule, dumps

WORKLOAD = "workload"
CALIBRATION = "workload/calibration"
LAUNCH_RULE = StoppingRule(
    min_passes=3, max_passes=40, half_width=0.0, budget_s=5.0, patience_s=10.0
)
"""How long launch.sh measures."""
THEN = "AUTOTUNE_THEN"
"""The variable that names a folder with two pipes for each worker, `requests` and `replies`, by
which whoever runs launch.sh asks more of them than launch.jsonl does."""
LAUNCH_SERVING_S = 15.0
"""And serves, where the objective is a rate of requests."""


def quote(text: str) -> str:
    """One shell word, whatever is in it."""
    return shlex.quote(text)


def comment(text: str) -> str:
    """Text for a comment line: what could end the line is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def requests(
    config: Config,
    inputs: Inputs,
    cache: str | None = None,
    *,
    rate: float | None = None,
    features: int = 0,
) -> str:
    """The requests of one measurement, as the search sent them, for a worker started in the
    run's folder; `cache` is where in it the prepared engine was kept.

    With `rate` LAUNCH_SERVING_S seconds of requests for `features` rows follow, an instance's
    share of them: all instances are asked the same.
    """
    here = replace(
        inputs,
        features=WORKLOAD,
        calibration=CALIBRATION if inputs.calibration else None,
        cache=cache,
    )
    lines: list[dict[str, object]] = [
        {"id": 1, "op": "open", "args": open_request(config, here)},
        {"id": 2, "op": "measure", "args": measure_request(config, LAUNCH_RULE)},
    ]
    if rate is not None:
        rows, arrivals_s = requests_at(
            rate / int(config["instances"]), LAUNCH_SERVING_S, features, np.random.default_rng(0)
        )
        point = config.only(POINT_KNOBS).as_dict()
        arguments = {"point": point, "rows": rows, "arrivals_s": arrivals_s}
        lines.append({"id": 3, "op": "serve", "args": arguments})
    return "".join(dumps(line) + "\n" for line in lines)


def worker_lines(commands: Sequence[Command]) -> str:
    """The lines that start every worker in the background, to say its exit code when it ends."""
    together = ' \\\n    --together "$work"' if len(commands) > 1 else ""
    parts = []
    for index, command in enumerate(commands):
        variables = " \\\n    ".join(
            f"{name}={quote(value)}" for name, value in sorted(command.variables.items())
        )
        worker = " ".join(quote(word) for word in command.argv)
        parts.append(f"""mkdir -- "$work/{index}"
{{
    env -i "${{environment[@]}}" \\
    {variables} \\
    {worker} \\
    --requests launch.jsonl --replies "$work/{index}/replies.jsonl" \\
    --workdir "$work/{index}"{together} \\
    ${{{THEN}:+--then "${THEN}/{index}"}} \\
    > "$work/{index}/worker.log" 2>&1 &
    ended
}} &
workers+=($!)
""")
    return "".join(parts)


def script_comment(line: ScriptLine) -> str:
    """Hugging Face's own command line and what it cannot express, as comment lines."""
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
    """The script's text; `commands` are those of `launch.worker_commands`.

    `checker` is the command that says what has changed since the search, given the run's
    folder; where it fails nothing is started. `scorer` judges the workers' replies; it is
    given the run's folder, the folder of the replies and the script's own arguments.
    """
    return f"""#!/usr/bin/env bash
# {comment(title)}
#
# Runs that configuration on the rows it was tuned on, with the environment, pinning and
# command it was measured with, and prints its speed and accuracy beside what was promised.
# Arguments are passed to the scoring command (--json for programs).
{"" if line is None else script_comment(line)}set -euo pipefail
cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")"

# What has changed since the search, on standard error.
{" ".join(quote(word) for word in checker)} . >&2

work=$(mktemp -d "${{TMPDIR:-/tmp}}/autotune-launch.XXXXXX")
set -m  # each worker is a process group of its own, which ends with all that it started
workers=()
end_workers() {{
    for worker in ${{workers[@]+"${{workers[@]}}"}}; do  # none is an error before bash 4.4
        kill -KILL -- "-$worker" 2> /dev/null || true
    done
    workers=()
}}
finish() {{
    end_workers
    rm -rf -- "$work"
}}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A clean environment: what is passed on, then what the configuration sets.
environment=()
for name in {" ".join(INHERITED_VARIABLES)}; do
    if [[ -v $name ]]; then environment+=("$name=${{!name}}"); fi
done
environment+=("TMPDIR=$work")

# Waits for the worker just started and says its exit code.
mkfifo -- "$work/ended"
exec 3<> "$work/ended"
ended() {{
    local code=0
    wait "$!" || code=$?
    echo "$code" >&3
}}

{worker_lines(commands)}
status=0
for _ in "${{workers[@]}}"; do  # one that fails ends all
    read -r status <&3
    if (( status )); then break; fi
done
if (( status )); then
    cat -- "$work"/*/worker.log >&2
    exit "$status"
fi
end_workers
{" ".join(quote(word) for word in scorer)} . "$work" "$@"
"""
