from __future__ import annotations

import sys

import pytest
import releases

from autotune.emit.huggingface import script_line
from autotune.shared.records import Config
from autotune.tasks.qa import QuestionAnswering
from autotune.tasks.token_classification import TokenClassification


def line(version="4.52.4", script=QuestionAnswering.script, **knobs):
    config = {
        "mode": "eager",
        "precision": "fp32",
        "attention": "sdpa",
        "threads": 2,
        "batch_size": 8,
        "padding": "max_length",
        **knobs,
    }
    return script_line(
        Config.of(config),
        script=script,
        transformers=version,
        model="m",
        data="d.json",
        max_seq_length=384,
        doc_stride=128,
        variables={"OMP_NUM_THREADS": "2"},
    )


def test_the_guides_command_is_expressed_whole():
    found = line(mode="ipex_jit", precision="bf16", bf16_method="autocast")
    assert {"--no_cuda", "--use_ipex", "--jit_mode_eval", "--bf16"} <= set(found.argv)
    assert found.not_expressed == ()
    assert found.variables == {"OMP_NUM_THREADS": "2"}


def test_each_script_gets_its_own_flags():
    assert "--doc_stride" in line().argv
    assert "--train_file" not in line().argv
    ner = line(script=TokenClassification.script)
    assert ner.argv[1] == "run_ner.py"
    assert "--doc_stride" not in ner.argv
    assert ner.argv[ner.argv.index("--train_file") + 1] == "d.json"
    assert ner.argv[-1] == "run_ner_output"
    assert ner.source.startswith("examples/pytorch/token-classification/run_ner.py at tag v4")


@pytest.mark.parametrize(
    ("version", "flags", "gone"),
    [
        ("4.49.0", {"--no_cuda", "--use_ipex", "--jit_mode_eval"}, 0),
        ("4.53.0", {"--no_cuda", "--jit_mode_eval"}, 1),
        ("4.57.1", {"--no_cuda", "--jit_mode_eval"}, 1),
        ("5.23.0", {"--use_cpu"}, 2),
    ],
)
def test_flags_follow_the_version(version, flags, gone):
    found = line(version, mode="ipex_jit")
    every = {"--no_cuda", "--use_cpu", "--use_ipex", "--jit_mode_eval"}
    assert every & set(found.argv) == flags
    assert len(found.not_expressed) == gone


def test_what_the_script_cannot_express_is_named():
    found = line(
        mode="ipex",
        precision="fp32",
        auto_kernel_selection=True,
        attention="eager",
        padding="buckets",
        bucket_step=64,
        pinning="compact",
    )
    words = " ".join(found.not_expressed)
    for part in ("auto_kernel_selection", "attention=eager", "padding=buckets", "pinning=compact"):
        assert part in words
    assert "precision=int8_dynamic" in " ".join(line(precision="int8_dynamic").not_expressed)


def test_padding_to_the_longest_of_a_batch_is_a_flag():
    argv = line(padding="longest").argv
    assert argv[argv.index("--pad_to_max_length") + 1] == "False"


@pytest.mark.model
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", ["eager", "jit", "ipex", "ipex_jit"])
def test_the_installed_transformers_takes_the_flags(mode, precision, tmp_path):
    import transformers

    if precision == "bf16":
        found = line(transformers.__version__, mode=mode, precision="bf16", bf16_method="full")
    else:
        found = line(transformers.__version__, mode=mode)
    parser = transformers.HfArgumentParser(transformers.TrainingArguments)
    own = ["--model_name_or_path", "--validation_file", "--max_seq_length", "--doc_stride"]
    own += ["--pad_to_max_length"]  # the script's, each with a value
    argv, skip = [], False
    for word in found.argv[2:]:
        if skip or word in own:
            skip = word in own
            continue
        argv.append(str(tmp_path / word) if word == "out" else word)
    (arguments,) = parser.parse_args_into_dataclasses(argv)
    assert arguments.use_cpu
    assert arguments.bf16_full_eval == (precision == "bf16")
    assert getattr(arguments, "use_ipex", False) == ("--use_ipex" in found.argv)
    assert getattr(arguments, "jit_mode_eval", False) == ("--jit_mode_eval" in found.argv)


@pytest.mark.model
def test_the_release_that_is_here_takes_and_honours_every_flag():
    _, count, problems = releases.check(sys.executable)
    assert count > 100
    assert problems == []


@pytest.mark.model
def test_a_flag_that_a_release_does_not_have_is_noticed():
    _, _, problems = releases.check(sys.executable, [["--no_such_flag", "--output_dir", "o"]])
    assert problems == [["--no_such_flag --output_dir o", "unknown: ['no_such_flag']"]]
