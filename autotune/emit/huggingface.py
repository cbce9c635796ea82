"""A configuration as the command line of Hugging Face's example script.

Flags differ between versions of transformers. The command line contains a flag only if the
version honours the flag, according to trainer.py and training_args.py of the release:

- `--use_ipex` works from 4.49 to 4.52 and is silently ignored from 4.53 on;
- `--jit_mode_eval` and `--no_cuda` are removed in 5.0, `--use_cpu` remains;
- `--bf16` is autocast, `--bf16_full_eval` converts the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.version import Version

from autotune.shared.records import Config
from autotune.space.knobs import KNOBS
from autotune.tasks.base import Script

USE_IPEX_VERSIONS = ((4, 49), (4, 52))
"""First and last version of transformers in which `--use_ipex` works."""
SCRIPT_BATCH_SIZE = 8
"""The script's default batch size, in rows."""
EXAMPLES_FOLDER = "examples/pytorch"

KNOBS_WITHOUT_FLAG = {
    "instances": "start one script for each part of the data",
    "pinning": "start the script under taskset",
    "interop_threads": "the script has no such flag",
    "flush_denormals": "the script has no such flag",
    "attention": "the script uses the model's default",
    "linear": "the script runs torch's own Linear",
    "auto_kernel_selection": "the Trainer does not pass it to ipex.optimize",
    "dynamic_shapes": "torch.compile decides",
    "max_autotune": "pass --torch_compile_mode max-autotune",
}
"""Knobs for which the script has no flag, each with the reason or a remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptLine:
    """The example script's command line.

    `variables` are the environment variables to set. `not_expressed` lists the settings of the
    configuration that neither a flag nor a variable expresses.
    """

    variables: Mapping[str, str]
    argv: tuple[str, ...]
    not_expressed: tuple[str, ...]
    source: str  # where to find the script


def script_line(
    config: Config,
    *,
    script: Script,
    transformers: str,
    model: str,
    data: str,
    max_seq_length: int,
    doc_stride: int,
    variables: Mapping[str, str],
    data_flags: Sequence[str] = (),
) -> ScriptLine:
    """Return the command line of `script` that comes nearest to `config`.

    `transformers` is a version, such as "4.52.4". `data_flags` are those that the dataset asks for,
    see `Task.script_flags`. `variables` are the environment variables from
    `driver.command.process_variables`.
    """
    series = Version(transformers).release[:2]
    flags: list[str] = []
    missing: list[str] = []
    mode, precision = str(config["mode"]), str(config["precision"])

    flags.append("--no_cuda" if series < (5, 0) else "--use_cpu")
    if mode in ("ipex", "ipex_jit"):
        if USE_IPEX_VERSIONS[0] <= series <= USE_IPEX_VERSIONS[1]:
            flags.append("--use_ipex")
        else:
            missing.append(f"mode={mode}: --use_ipex does nothing in transformers {transformers}")
    if mode in ("jit", "ipex_jit"):
        if series < (5, 0):
            flags.append("--jit_mode_eval")
        else:
            missing.append(f"mode={mode}: transformers {transformers} has no --jit_mode_eval")
    if mode == "inductor":
        flags.append("--torch_compile")
    if mode in ("onnxruntime", "openvino", "zentorch"):
        missing.append(f"mode={mode}: the script only runs torch's own engines")
    if precision == "bf16":
        full = config.get("bf16_method") == "full"
        flags.append("--bf16_full_eval" if full else "--bf16")
    elif precision != "fp32":
        missing.append(f"precision={precision}: the script has no such flag")
    padding = str(config["padding"])
    flags += ["--pad_to_max_length", str(padding == "max_length")]
    if padding not in ("max_length", "longest"):
        missing.append(f"padding={padding}: the script pads to the longest of each batch, unsorted")
    missing += [
        f"{name}={str(config[name]).lower()}: {why}"
        for name, why in KNOBS_WITHOUT_FLAG.items()
        if config.get(name, KNOBS[name].default) != KNOBS[name].default
    ]
    return ScriptLine(
        variables=variables,
        argv=(
            "python",
            script.name,
            *("--model_name_or_path", model),
            *(("--train_file", data) if script.labels_from_train else ()),
            *("--validation_file", data),
            "--do_eval",
            *("--max_seq_length", str(max_seq_length)),
            *(("--doc_stride", str(doc_stride)) if script.takes_doc_stride else ()),
            *("--per_device_eval_batch_size", str(config.get("batch_size", SCRIPT_BATCH_SIZE))),
            *data_flags,
            *flags,
            *("--output_dir", script.name.removesuffix(".py") + "_output"),
        ),
        not_expressed=tuple(missing),
        source=(
            f"{EXAMPLES_FOLDER}/{script.folder}/{script.name} at tag v{transformers} of "
            "huggingface/transformers"
        ),
    )
