"""`autotune run-qa`, `run-glue` and `run-ner`: the flags of Hugging Face's example scripts.

The flags keep the scripts' spelling, underscores included. A boolean flag without a value is
true. An unknown flag is an error, so that no wish is ignored silently.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from autotune.cli.common import Reported, debug_option, json_option, say, show
from autotune.cli.parameters import FilePath
from autotune.shared.errors import InputError

Command = Callable[..., Any]


WITHOUT_EFFECT = (
    *("overwrite_output_dir", "overwrite_cache", "report_to", "run_name", "seed", "data_seed"),
    *("logging_dir", "logging_steps", "logging_strategy", "logging_first_step", "log_level"),
    *("disable_tqdm", "save_steps", "save_strategy", "save_total_limit", "save_safetensors"),
    *("eval_strategy", "evaluation_strategy", "eval_steps", "eval_accumulation_steps"),
    *("dataloader_num_workers", "dataloader_pin_memory"),
    *("preprocessing_num_workers", "remove_unused_columns", "load_best_model_at_end"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("num_train_epochs", "max_steps", "warmup_steps", "warmup_ratio", "weight_decay"),
    *("lr_scheduler_type", "max_train_samples", "train_file", "test_file", "use_fast_tokenizer"),
    # training
    *("adafactor", "adam_beta1", "adam_beta2", "adam_epsilon", "auto_find_batch_size"),
    *("average_tokens_across_devices", "eval_delay", "eval_on_start", "gradient_checkpointing"),
    *("gradient_checkpointing_kwargs", "greater_is_better", "ignore_data_skip"),
    *("lr_scheduler_kwargs", "max_grad_norm", "metric_for_best_model", "neftune_noise_alpha"),
    *("optim", "optim_args", "optim_target_modules", "per_gpu_train_batch_size"),
    *("restore_callback_states_from_checkpoint", "resume_from_checkpoint"),
    # checkpoints, logs and the hub
    *("hub_always_push", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_token"),
    *("include_num_input_tokens_seen", "include_tokens_per_second", "log_level_replica"),
    *("log_on_each_node", "logging_nan_inf_filter", "push_to_hub", "push_to_hub_model_id"),
    *("push_to_hub_organization", "push_to_hub_token", "save_on_each_node", "save_only_model"),
    # several processes or devices: there is one process, on the CPU
    *("accelerator_config", "dataloader_persistent_workers", "dataloader_prefetch_factor"),
    *("ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters"),
    *("ddp_timeout", "eval_use_gather_object", "fp16_backend", "fp16_opt_level"),
    *("half_precision_backend", "local_rank", "mp_parameters", "ray_scope", "tf32"),
    *("torch_empty_cache_steps", "tpu_metrics_debug", "tpu_num_cores"),
)
"""Flags of the scripts and of TrainingArguments that change nothing in an evaluation."""


def without_effect(name: str) -> Callable[[Command], Command]:
    """A flag that is accepted, with or without a value, and has no effect."""
    return click.option(f"--{name}", is_flag=False, flag_value="", default=None, hidden=True)


def flag(name: str, about: str) -> Callable[[Command], Command]:
    """A boolean flag as in transformers: alone, or followed by True or False."""
    return click.option(name, is_flag=False, flag_value="true", type=bool, default=None, help=about)


def shared(command: Command) -> Command:
    """Add the flags common to the three scripts, and autotune's own."""
    for option in reversed(
        (
            click.option("--model_name_or_path", required=True, help="A folder or a hub id."),
            click.option("--dataset_name", help="A dataset id."),
            click.option(
                "--validation_file", help="A .json, .jsonl or .csv file, instead of --dataset_name."
            ),
            flag("--do_eval", "Evaluate; required, as nothing else is supported."),
            click.option("--max_seq_length", type=click.IntRange(min=16)),
            click.option("--max_eval_samples", type=click.IntRange(min=1)),
            click.option("--per_device_eval_batch_size", type=click.IntRange(min=1)),
            flag("--pad_to_max_length", "Pad every row to --max_seq_length."),
            click.option("--output_dir", type=FilePath(), required=True),
            flag("--no_cuda", "Run on the CPU (always the case)."),
            flag("--use_cpu", "The same flag of transformers 5."),
            flag("--use_ipex", "Optimise with IPEX."),
            flag("--jit_mode_eval", "Trace with TorchScript; a trace that fails is an error."),
            flag("--torch_compile", "Compile with inductor."),
            flag("--bf16", "Use bfloat16 autocast."),
            flag("--bf16_full_eval", "Convert the whole model to bfloat16."),
            click.option("--model_revision", help="Revision of a hub model."),
            flag("--trust_remote_code", "Run code that the model repository holds."),
            click.option("--allow-pickle", is_flag=True, help="Load pickled weights."),
            click.option(
                "--config",
                type=FilePath(),
                help="best.yaml of a search, or its folder: run that configuration.",
            ),
            click.option("--stack", metavar="NAME[=PYTHON]", help="Run on this interpreter."),
            click.option(
                "--calibration", metavar="DATASET", help="Rows that static int8 calibrates on."
            ),
            json_option,
            debug_option,
        )
    ):
        command = option(command)
    for name in WITHOUT_EFFECT:
        command = without_effect(name)(command)
    return command


def evaluate(task: str, options: dict[str, Any]) -> None:
    """Check the options, evaluate, print the metrics as the Trainer does."""
    debug, as_json = options.pop("debug"), options.pop("as_json")
    with Reported(debug):
        from autotune.commands.evaluate import Evaluation, Flags
        from autotune.commands.evaluate import evaluate as run

        if not options["do_eval"]:
            raise InputError("--do_eval is what this command does; pass it")
        given = [f"--{name}" for name in WITHOUT_EFFECT if options.pop(name) is not None]
        if given:
            say(f"{', '.join(given)}: no effect on an evaluation")
        files = [options[name] for name in ("dataset_name", "validation_file")]
        if files.count(None) != 1:
            raise InputError("pass --dataset_name or --validation_file, one of the two")
        for name in ("no_cuda", "use_cpu"):
            if options[name] is False:
                raise InputError(f"--{name} False: this runs on the CPU")
        switches = [one.name for one in fields(Flags) if one.default is False]
        metrics = run(
            Evaluation(
                task=task,
                model=options["model_name_or_path"],
                dataset=options["dataset_name"] or options["validation_file"],
                output=options["output_dir"],
                flags=Flags(
                    per_device_eval_batch_size=options["per_device_eval_batch_size"],
                    pad_to_max_length=options["pad_to_max_length"],
                    **{name: bool(options[name]) for name in switches},
                ),
                config=options["config"],
                stack=options["stack"],
                calibration=options["calibration"],
                max_seq_length=options["max_seq_length"],
                doc_stride=options.get("doc_stride"),
                version_2_with_negative=bool(options.get("version_2_with_negative")),
                max_eval_samples=options["max_eval_samples"],
                revision=options["model_revision"],
                trust_remote_code=bool(options["trust_remote_code"]),
                allow_pickle=options["allow_pickle"],
            ),
            say,
        )
        if as_json:
            show(json.dumps(metrics, indent=2))
            return
        show("***** eval metrics *****")
        width = max(map(len, metrics))
        for name, value in sorted(metrics.items()):
            shown = str(value) if isinstance(value, int) else f"{value:.4f}"
            show(f"  {name:{width}} = {shown:>10}")


@click.command("run-qa")
@shared
@click.option("--doc_stride", type=click.IntRange(min=0))
@click.option(
    "--version_2_with_negative",
    is_flag=False,
    flag_value="true",
    type=bool,
    help="Some questions have no answer. Also found by the dataset itself.",
)
def run_qa(**options: Any) -> None:
    """Evaluate question answering with the flags and files of Hugging Face's run_qa.py."""
    evaluate("qa", options)


@click.command("run-glue")
@shared
def run_glue(**options: Any) -> None:
    """Evaluate text classification with the flags and files of Hugging Face's run_glue.py."""
    evaluate("text-classification", options)


@click.command("run-ner")
@shared
def run_ner(**options: Any) -> None:
    """Evaluate token classification with the flags and files of Hugging Face's run_ner.py."""
    evaluate("token-classification", options)
