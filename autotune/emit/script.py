"""launch.sh: the worker's own command, as a script that stands beside the run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from autotune.emit.huggingface import ScriptLine
from autotune.launch import PASSED_ON, Command
from autotune.records import Config, Measure, ModelSource, dumps
from autotune.runner import measure_request, open_request

WORKLOAD = "workload"
LAUNCH_RULE = Measure(min_passes=3, max_passes=40, budget_s=15.0, patience_s=25.0)
"""How long launch.sh measures: about as long as each finalist was in all its visits."""


def quote(text: str) -> str:
    """One shell word, whatever is in it."""
    return shlex.quote(text)


def comment(text: str) -> str:
    """Text for a comment line: what could end the line is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def requests(config: Config, source: ModelSource) -> str:
    """The requests of one measurement, as the search sent them, for a worker started in the
    run's folder."""
    lines: Sequence[dict[str, object]] = (
        {"id": 1, "op": "open", "args": open_request(config, source, WORKLOAD)},
        {"id": 2, "op": "measure", "args": measure_request(config, LAUNCH_RULE)},
    )
    return "".join(dumps(line) + "\n" for line in lines)


def launch_script(
    command: Command,
    *,
    title: str,
    line: ScriptLine,
    scorer: Sequence[str],
) -> str:
    """The script's text.

    `scorer` is the command that judges the worker's replies; it is given the run's folder,
    the folder of the replies and the script's own arguments.
    """
    settings = " \\\n    ".join(
        f"{name}={quote(value)}" for name, value in sorted(command.settings.items())
    )
    worker = " ".join(quote(word) for word in command.argv)
    hf_settings = " ".join(f"{k}={quote(v)}" for k, v in sorted(line.settings.items()))
    hf_command = " ".join(quote(word) for word in line.argv)
    hf_lines = "\n".join(
        f"#   {comment(part)}" for part in f"{hf_settings} {hf_command}".split("\n")
    )
    if line.not_expressed:
        missing = "\n".join(f"#   - {comment(part)}" for part in line.not_expressed)
        missing = f"# It cannot express, so it will be slower than this script:\n{missing}"
    else:
        missing = "# It expresses the whole configuration."
    return f"""#!/usr/bin/env bash
# {comment(title)}
#
# Runs that configuration on the rows it was tuned on, with the environment, pinning and
# command it was measured with, and prints its speed and accuracy beside what was promised.
# Arguments are passed to the scoring command (--json for programs).
#
# The nearest command line of Hugging Face's own script
# ({comment(line.source)}):
#
{hf_lines}
#
{missing}
set -euo pipefail
cd -- "$(dirname -- "${{BASH_SOURCE[0]}}")"

work=$(mktemp -d "${{TMPDIR:-/tmp}}/autotune-launch.XXXXXX")
trap 'rm -rf -- "$work"' EXIT

# A clean environment: what is passed on, then what the configuration sets.
environment=()
for name in {" ".join(PASSED_ON)}; do
    if [[ -v $name ]]; then environment+=("$name=${{!name}}"); fi
done

status=0
env -i "${{environment[@]}}" \\
    {settings} \\
    {worker} \\
    --requests launch.jsonl --replies "$work/replies.jsonl" --workdir "$work" \\
    > "$work/worker.log" 2>&1 || status=$?
if (( status )); then
    cat -- "$work/worker.log" >&2
    exit "$status"
fi
{" ".join(quote(word) for word in scorer)} . "$work" "$@"
"""
