"""`autotune run-qa` and its sisters: the example scripts' flags, files and numbers."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_other_tasks import MAKE, TAGS, python, text_rows, token_rows

from autotune import demo
from autotune.cli.evaluate import WITHOUT_EFFECT, run_qa
from autotune.commands.evaluate import (
    Flags,
    check_agreement,
    read_config,
    script_max_seq_length,
)
from autotune.host import detect
from autotune.shared.errors import InputError
from autotune.shared.instructions import has_bf16
from autotune.tasks import task_named
from autotune.tasks.qa import best_span, n_best, spans

KEYS = {
    "eval_import_time",
    "eval_model_preparation_time",
    "eval_runtime",
    "eval_samples",
    "eval_samples_per_second",
    "eval_steps_per_second",
    "eval_warm_up_time",
}


@pytest.mark.parametrize(
    ("flags", "knobs"),
    [
        ({}, {}),
        ({"use_ipex": True, "jit_mode_eval": True}, {"mode": "ipex_jit"}),
        ({"use_ipex": True}, {"mode": "ipex"}),
        ({"jit_mode_eval": True, "bf16": True}, {"mode": "jit", "precision": "bf16"}),
        ({"torch_compile": True}, {"mode": "inductor"}),
        ({"bf16_full_eval": True}, {"precision": "bf16", "bf16_method": "full"}),
        ({"per_device_eval_batch_size": 4}, {"batch_size": 4}),
        ({"pad_to_max_length": False}, {"padding": "longest"}),
        ({"pad_to_max_length": True}, {"padding": "max_length"}),
    ],
)
def test_what_flags_stand_for(flags, knobs):
    found = {}
    for stands_for in Flags(**flags).given().values():
        found.update(stands_for)
    assert found.items() >= knobs.items()
    assert bool(found) == bool(knobs)


@pytest.mark.parametrize(
    "flags", [{"torch_compile": True, "use_ipex": True}, {"bf16": True, "bf16_full_eval": True}]
)
def test_flags_at_odds(flags):
    with pytest.raises(InputError, match="drop"):
        Flags(**flags).given()


def test_a_flag_and_a_configuration_at_odds(tmp_path):
    flagged = Flags(use_ipex=True).given()
    check_agreement(flagged, {"mode": "ipex"}, tmp_path)
    check_agreement(flagged, {}, None)
    with pytest.raises(InputError, match=r"--use_ipex asks for mode=ipex, .* mode=jit; drop one"):
        check_agreement(flagged, {"mode": "jit"}, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "not the best.yaml"),
        ("{config: {mode: jit}}", "not the best.yaml"),
        ("{config: [", "cannot be read"),
        (
            {
                "config": {"mode": "jit"},
                "stack": {"python": "p"},
                "max_seq_length": 384,
                "doc_stride": 128,
                "task": "text-classification",
            },
            "is for text-classification, this command runs qa",
        ),
        (
            {
                "config": {"warp": 9},
                "stack": {"python": "p"},
                "max_seq_length": 384,
                "doc_stride": 128,
                "task": "qa",
            },
            "knobs this version does not know: warp",
        ),
    ],
)
def test_a_configuration_that_is_none(tmp_path, content, words):
    file = tmp_path / "best.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(InputError, match=words):
        read_config(file, task_named("qa"))


def answer_by_the_book(start_logits, end_logits, offsets, context):
    """run_qa.py's postprocess_qa_predictions, for one window of one question."""
    found = []
    for start in np.argsort(start_logits)[-1:-21:-1].tolist():
        for end in np.argsort(end_logits)[-1:-21:-1].tolist():
            if offsets[start] is None or offsets[end] is None:
                continue
            if end < start or end - start + 1 > 30:
                continue
            found.append(
                {
                    "text": context[offsets[start][0] : offsets[end][1]],
                    "score": start_logits[start] + end_logits[end],
                    "start_logit": start_logits[start],
                    "end_logit": end_logits[end],
                }
            )
    best = sorted(found, key=lambda one: one["score"], reverse=True)[:20]
    weights = np.exp(np.array([one["score"] for one in best]) - best[0]["score"])
    for one, weight in zip(best, weights / weights.sum(), strict=True):
        one["probability"] = float(weight)
    return best


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(0, 20))
def test_the_best_answers_are_those_of_the_example_script(seed, tokens, question):
    rng = np.random.default_rng(seed)
    start_logits, end_logits = rng.normal(size=(2, question + tokens)).astype(np.float32)
    context = "".join(chr(97 + i % 26) for i in range(3 * tokens))
    offsets = [None] * question + [(3 * i, 3 * i + 2) for i in range(tokens)]
    array = np.array([(-1, -1) if o is None else o for o in offsets], np.int32)
    found = n_best(list(spans(start_logits, end_logits, array)), context)
    if best_span(start_logits, end_logits, array) is None:
        assert found == [
            {"start_logit": 0.0, "end_logit": 0.0, "probability": 1.0, "text": "empty"}
        ]
        return
    wanted = answer_by_the_book(start_logits, end_logits, offsets, context)
    assert [one["text"] for one in found] == [one["text"] for one in wanted]
    assert [one["probability"] for one in found] == pytest.approx(
        [one["probability"] for one in wanted], abs=1e-6
    )
    _, low, high = best_span(start_logits, end_logits, array)
    assert context[low:high] == found[0]["text"]


@pytest.mark.model
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), marks=pytest.mark.full),
        ("--jit_mode_eval",),
        pytest.param(("--bf16_full_eval", "True"), marks=pytest.mark.full),
    ],
)
def test_run_qa_on_the_demo(autotune, tmp_path, flags):
    command = (
        *("run-qa", "--model_name_or_path", demo.MODEL, "--validation_file", demo.DATASET),
        *("--do_eval", "--max_seq_length", "384", "--doc_stride", "128", "--no_cuda"),
        *("--max_eval_samples", "6", "--pad_to_max_length", "False", "--output_dir", "out"),
    )
    done = autotune(*command, *flags, "--json")
    if "--bf16_full_eval" in flags and not has_bf16(detect().instruction_sets):
        assert done.returncode == 2
        assert "bf16 needs AVX512-BF16 or AMX-BF16" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    assert set(metrics) == {"eval_f1", "eval_exact_match", *KEYS}
    out = tmp_path / "out"
    assert json.loads((out / "eval_results.json").read_text()) == metrics
    assert json.loads((out / "all_results.json").read_text()) == metrics
    best = json.loads((out / "eval_predictions.json").read_text())
    ranked = json.loads((out / "eval_nbest_predictions.json").read_text())
    assert {name: one[0]["text"] for name, one in ranked.items()} == best
    assert len(best) == 6
    task = task_named("qa")
    rows = [row for row in task.load(str(demo.DATASET), None).rows if row["id"] in best]
    scores = task.score(rows, [best[row["id"]] for row in rows])
    assert metrics["eval_f1"] == pytest.approx(scores["f1"])
    assert metrics["eval_samples"] >= 6


TRAINER = """
import json, sys, numpy as np, torch, transformers as t
folder, dataset, kind, out = sys.argv[1:5]
rows = [json.loads(line) for line in open(dataset)]
tokenizer = t.AutoTokenizer.from_pretrained(folder)
class Rows(torch.utils.data.Dataset):
    def __len__(self): return len(rows)
    def __getitem__(self, n):
        row = rows[n]
        if kind == "text":
            found = tokenizer(row["sentence"], truncation=True, max_length=128)
            return {**found, "label": model.config.label2id[row["label"]]}
        found = tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=128)
        before, labels = None, []
        for word in found.word_ids():
            new = word is not None and word != before
            labels.append(model.config.label2id[row["ner_tags"][word]] if new else -100)
            before = word
        return {**found, "labels": labels}
if kind == "text":
    model = t.AutoModelForSequenceClassification.from_pretrained(folder)
    collate = t.DataCollatorWithPadding(tokenizer)
else:
    model = t.AutoModelForTokenClassification.from_pretrained(folder)
    collate = t.DataCollatorForTokenClassification(tokenizer)
arguments = t.TrainingArguments(out, use_cpu=True, report_to=[], per_device_eval_batch_size=8)
trainer = t.Trainer(model, arguments, data_collator=collate, eval_dataset=Rows())
print(json.dumps(trainer.evaluate()))
"""


@pytest.mark.full
@pytest.mark.model
@pytest.mark.parametrize(
    ("command", "head", "labels", "rows", "kind"),
    [
        ("run-glue", "BertForSequenceClassification", "so so,good,bad", text_rows(), "text"),
        ("run-ner", "BertForTokenClassification", ",".join(TAGS), token_rows(), "tokens"),
    ],
)
def test_the_loss_is_the_trainers(autotune, tmp_path, command, head, labels, rows, kind):
    model, dataset = tmp_path / "model", tmp_path / "d.jsonl"
    python(MAKE, head, labels, model, demo.MODEL)
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows[:21]))
    done = autotune(
        *(command, "--model_name_or_path", model, "--validation_file", dataset, "--do_eval"),
        *("--output_dir", "out", "--json"),
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)
    trainer = json.loads(python(TRAINER, model, dataset, kind, tmp_path / "t").splitlines()[-1])
    assert set(trainer) - {"epoch"} <= set(metrics)
    assert metrics["eval_loss"] == pytest.approx(trainer["eval_loss"], rel=1e-4)
    assert 0 <= metrics["eval_accuracy"] <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "--do_eval is what this command does"),
        (("--do_eval", "False"), "--do_eval is what this command does"),
        (("--do_eval", "--dataset_name", "squad"), "one of the two"),
        (("--do_eval", "--no_cuda", "False"), "runs on the CPU"),
        (("--do_eval", "--no_such_flag", "3"), "No such option"),
        (("--do_eval", "--config", "none.yaml"), "does not exist"),
        (("--do_eval", "--bf16", "--bf16_full_eval"), "drop one"),
    ],
)
def test_what_is_refused(autotune, tmp_path, options, words):
    done = autotune(
        *("run-qa", "--model_name_or_path", demo.MODEL, "--validation_file", demo.DATASET),
        *("--output_dir", "out", *options),
    )
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def ner_rows(tags):
    """A row of one word a tag. The stub tags words of even length O and others B-x."""
    return [{"tokens": ["ab" if n % 2 else "abc"], "ner_tags": [t]} for n, t in enumerate(tags)]


@pytest.fixture
def run_ner(stubbed, tmp_path):
    def run(rows, *options):
        dataset = tmp_path / "rows.jsonl"
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return stubbed(
            *("run-ner", "--model_name_or_path", demo.MODEL, "--validation_file", dataset),
            *("--do_eval", "--output_dir", "out", "--json", *options),
        )

    return run


def test_max_eval_samples_takes_the_first_rows_and_flags_without_effect_are_said(run_ner):
    """The first three of six rows are tagged right, the others wrong."""
    rows = ner_rows(["B-x", "O", "B-x", "B-x", "O", "B-x"])
    ignored = ("--overwrite_output_dir", "--report_to", "none", "--seed", "7", "--logging_dir", "l")
    done = run_ner(rows, "--max_eval_samples", "3", *ignored, "--optim=adamw_torch")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["eval_samples"], found["eval_accuracy"]) == (3, 1.0)
    said = done.stderr.splitlines()[0]
    assert said.endswith(": no effect on an evaluation")
    named = set(said.partition(": ")[0].split(", "))
    assert named == {f"--{n}" for n in WITHOUT_EFFECT if f"--{n}" in " ".join(done.args)}


def test_run_ner_has_no_length_of_its_own(run_ner):
    """The last word is the 300th; a default of 128 would not score it."""
    row = {"tokens": ["ab"] * 299 + ["abc"], "ner_tags": ["O"] * 299 + ["B-x"]}
    found = json.loads(run_ner([row]).stdout)
    assert found["eval_recall"] == 1.0
    assert json.loads(run_ner([row], "--max_seq_length", "128").stdout)["eval_recall"] == 0.0


@pytest.mark.parametrize(("task", "length"), [("qa", 384), ("text-classification", 128)])
def test_the_other_scripts_have_a_length_of_their_own(task, length):
    assert script_max_seq_length(task_named(task)) == length


@pytest.mark.parametrize("output", ["file", "file/below", "/proc", "/proc/nowhere"])
def test_an_unusable_output_folder_is_found_before_anything_runs(stubbed, tmp_path, output):
    (tmp_path / "file").write_text("")
    done = stubbed(
        *("run-qa", "--model_name_or_path", demo.MODEL, "--validation_file", demo.DATASET),
        *("--do_eval", "--output_dir", output),
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()  # not even "encoding"
    assert line.startswith(f"autotune: --output_dir {output} ")


CHANGE_AN_EVALUATION = {
    *("_n_gpu", "batch_eval_metrics", "dataloader_drop_last", "deepspeed", "do_predict"),
    *("do_train", "eval_do_concat_batches", "fp16", "fp16_full_eval", "fsdp", "fsdp_config"),
    *("fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap", "full_determinism"),
    *("group_by_length", "include_for_metrics", "include_inputs_for_metrics", "label_names"),
    *("label_smoothing_factor", "length_column_name", "past_index", "per_gpu_eval_batch_size"),
    *("prediction_loss_only", "skip_memory_metrics", "torch_compile_backend"),
    *("torch_compile_mode", "torchdynamo", "use_legacy_prediction_loop", "use_liger_kernel"),
    "use_mps_device",
}
"""Arguments of the Trainer that change what an evaluation computes, writes or runs on."""
HOW_IT_EVALUATES = (
    *(
        "get_eval_dataloader",
        "_get_dataloader",
        "_get_eval_sampler",
        "evaluation_loop",
        "prediction_step",
    ),
    *("compute_loss", "evaluate"),
)
OF_NO_CONSEQUENCE = {
    *("average_tokens_across_devices", "dataloader_num_workers", "dataloader_persistent_workers"),
    *("dataloader_pin_memory", "dataloader_prefetch_factor", "eval_accumulation_steps"),
}
"""Arguments that an evaluation reads, and that change where its numbers wait and not what they
are."""


@pytest.mark.model
@pytest.mark.filterwarnings("ignore")
def test_every_argument_of_the_trainer_is_an_option_or_changes_an_evaluation():
    import transformers

    if not transformers.__version__.startswith("4.52."):
        pytest.skip("other releases have other arguments")
    arguments = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    taken = {name.lstrip("-") for option in run_qa.params for name in option.opts}
    assert arguments - taken == CHANGE_AN_EVALUATION
    source = "".join(
        inspect.getsource(getattr(transformers.Trainer, name)) for name in HOW_IT_EVALUATES
    )
    read = set(re.findall(r"\bargs\.(\w+)", source))
    assert {"dataloader_drop_last", "group_by_length"} < read
    assert read & set(WITHOUT_EFFECT) <= OF_NO_CONSEQUENCE


def test_the_flags_are_not_abbreviated():
    done = subprocess.run(
        [sys.executable, "-m", "autotune", "run-qa", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in ("--model_name_or_path", "--per_device_eval_batch_size", "--jit_mode_eval"):
        assert name in done.stdout
