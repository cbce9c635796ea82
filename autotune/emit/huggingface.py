"""A configuration as the command line of Hugging Face's example script.

Flags differ between versions of transformers. The command line contains a flag only if the
version honours the flag, according to trainer.py and training_args.py of the release. The
descriptors of engines and precisions name their flags and the versions that honour them. A knob
says itself what the script does instead (`Knob.script`). `--no_cuda` is removed in 5.0, `--use_cpu`
remains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.version import Version

from autotune.shared.engines import engine_named
from autotune.shared.precisions import precision_named
from autotune.shared.records import Config
from autotune.space.knobs import KNOBS, SCRIPT_BATCH_SIZE
from autotune.tasks.base import Script

EXAMPLES_FOLDER = "examples/pytorch"


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
    release = Version(transformers)
    series = release.major, release.minor
    flags: list[str] = []
    missing: list[str] = []
    engine, precision = engine_named(config["mode"]), precision_named(config["precision"])

    flags.append("--no_cuda" if series < (5, 0) else "--use_cpu")
    for flag in engine.script_flags or ():
        if flag.is_honoured_by(series):
            flags.append(flag.option)
        else:
            otherwise = flag.otherwise.format(version=transformers)
            missing.append(f"mode={engine.name}: {otherwise}")
    if engine.script_flags is None:
        missing.append(f"mode={engine.name}: {engine.without_script}")
    if precision.script_flags:
        chosen = [flag for flag in precision.script_flags if flag.agrees_with(config)]
        flags.append((chosen or precision.script_flags)[0].option)
    elif not precision.is_script_default:
        missing.append(f"precision={precision.name}: the script has no such flag")
    padding = str(config["padding"])
    flags += ["--pad_to_max_length", str(padding == "max_length")]
    if padding not in ("max_length", "longest"):
        missing.append(f"padding={padding}: the script pads to the longest of each batch, unsorted")
    missing += [
        f"{name}={str(config[name]).lower()}: {knob.script}"
        for name, knob in KNOBS.items()
        if knob.script is not None and config.get(name, knob.default) != knob.default
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
