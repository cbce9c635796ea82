"""Whole searches of text and token classification, against an independent computation.

The models are small and were never trained, which a comparison of scores does not mind; where
../shared is, trained ones serve too.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from events import reported
from families import IMAGE_MODELS, build, build_image_model, draw_images

from autotune import demo

pytestmark = pytest.mark.model

MAKE = """
import sys, torch, transformers as t
kind, labels, folder, tokenizer = sys.argv[1], sys.argv[2].split(","), sys.argv[3], sys.argv[4]
torch.manual_seed(0)
config = t.BertConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=96, initializer_range=0.3, id2label=dict(enumerate(labels)),
    label2id={name: i for i, name in enumerate(labels)})
getattr(t, kind)(config).save_pretrained(folder)
t.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
"""

INDEPENDENT = """
import json, sys, torch, transformers as t
folder, dataset, kind = sys.argv[1:4]
rows = [json.loads(line) for line in open(dataset)]
tokenizer = t.AutoTokenizer.from_pretrained(folder)
if kind == "text":
    model = t.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    right = 0
    for row in rows:
        inputs = tokenizer(row["sentence"], truncation=True, max_length=128, return_tensors="pt")
        found = int(model(**inputs).logits.argmax())
        wanted = row["label"]
        right += (found if isinstance(wanted, int) else model.config.id2label[found]) == wanted
    print(100 * right / len(rows))
else:
    from seqeval.metrics import f1_score
    model = t.AutoModelForTokenClassification.from_pretrained(folder).eval()
    expected, found = [], []
    for row in rows:
        inputs = tokenizer(row["tokens"], is_split_into_words=True, truncation=True,
            max_length=128, return_tensors="pt")
        labels = model(**inputs).logits[0].argmax(-1).tolist()
        tags = ["O"] * len(row["tokens"])
        for place in range(len(labels) - 1, -1, -1):
            word = inputs.word_ids()[place]
            if word is not None:
                tags[word] = model.config.id2label[labels[place]]
        expected.append(row["ner_tags"])
        found.append(tags)
    print(100 * f1_score(expected, found))
"""

PREDICTED = """
import json, sys, torch, transformers as t
tokenizer = t.AutoTokenizer.from_pretrained(sys.argv[1])
model = t.AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
texts = json.loads(sys.argv[2])
print([int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts])
"""

WORDS = [
    "the",
    "river",
    "rose",
    "over",
    "night",
    "in",
    "Paris",
    "while",
    "Ada",
    "Lovelace",
    "slept",
    "and",
    "nobody",
    "counted",
]
TAGS = ("O", "B-place", "I-place", "B-person", "I-person")


def sentences(count=24):
    return [WORDS[n % 5 : n % 5 + 3 + n % 7] for n in range(count)]


def text_rows():
    names = ("bad", "good", "so so")
    return [{"sentence": " ".join(s), "label": names[n % 3]} for n, s in enumerate(sentences())]


def token_rows():
    return [
        {"tokens": s, "ner_tags": [TAGS[(n + i) % 5] for i in range(len(s))]}
        for n, s in enumerate(sentences())
    ]


def python(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("task", "head", "labels", "rows"),
    [
        ("text-classification", "BertForSequenceClassification", "so so,good,bad", text_rows()),
        pytest.param(
            *("token-classification", "BertForTokenClassification"),
            *(",".join(TAGS[::-1]), token_rows()),
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_search_reads_what_an_independent_computation_does(
    autotune, tmp_path, task, head, labels, rows
):
    model, dataset = tmp_path / "model", tmp_path / "d.jsonl"
    python(MAKE, head, labels, model, demo.MODEL)
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = autotune(
        *(
            "search",
            "--model",
            model,
            "--task",
            task,
            "--dataset",
            dataset,
            "--trials",
            "3",
            "--time-budget",
            "120s",
        ),
        *("--set", "mode=jit", "--set", "precision=fp32", "--set", "padding=length_sorted"),
        *("--output", tmp_path / "run", "--json", "--accept-degenerate"),
    )
    assert done.returncode == 0, done.stderr
    report = reported(done)
    own = float(python(INDEPENDENT, model, dataset, task.partition("-")[0]))
    main = report["metrics"][0]
    assert report["baseline"]["metrics"][main] == pytest.approx(own)
    assert report["launch_check"]["same_metrics"], report["launch_check"]
    assert {e["config"]["mode"] for e in report["best_by_mode"]} >= {"jit"}
    assert all(e["metrics"][main] == pytest.approx(own) for e in report["best_by_mode"])


@pytest.mark.full
def test_the_winner_is_judged_on_rows_that_no_other_configuration_ran(autotune, tmp_path):
    """The rows that every configuration runs have right labels, and most others have wrong ones.

    So the score on more rows is lower, by as much as the labels say.
    """
    model, dataset = tmp_path / "model", tmp_path / "d.jsonl"
    python(MAKE, "BertForSequenceClassification", "so so,good,bad", model, demo.MODEL)
    texts = [" ".join([*WORDS[n % 9 : n % 9 + 3], str(n)]) for n in range(240)]
    labels = json.loads(python(PREDICTED, model, json.dumps(texts)))
    run_by_all = {n * len(texts) // 48 for n in range(48)}
    others = [n for n in range(len(texts)) if n not in run_by_all]
    calibration = {others[n * len(others) // 64] for n in range(64)}
    wrong = {n for n in others if n % 3}
    rows = [
        {"sentence": text, "label": (label + (n in wrong)) % 3}
        for n, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = autotune(
        *("search", "--model", model, "--task", "text-classification", "--dataset", dataset),
        *("--max-samples", "48", "--trials", "3", "--time-budget", "180s"),
        *("--set", "mode=jit", "--set", "precision=fp32", "--set", "padding=length_sorted"),
        *("--output", tmp_path / "run", "--json", "--accept-degenerate"),
    )
    assert done.returncode == 0, done.stderr
    report = reported(done)
    lines = (tmp_path / "run" / "trials.jsonl").read_text().splitlines()
    (judged,) = [t for t in map(json.loads, lines) if t["origin"] == "judged"]
    assert judged["config"] == report["best"]["config"]
    further = [n for n in others if n not in calibration]
    right = 48 + sum(n not in wrong for n in further)
    assert judged["accuracy"]["rows"] == 48 + len(further)
    assert judged["accuracy"]["metrics"]["accuracy"] == pytest.approx(
        100 * right / (48 + len(further))
    )
    assert judged["accuracy"]["agreement"] == 1
    assert report["baseline"]["metrics"]["accuracy"] == pytest.approx(100)


@pytest.mark.full
def test_embeddings_are_compared_with_those_of_eager(autotune, tmp_path):
    dataset = tmp_path / "d.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in text_rows()))
    done = autotune(
        *("search", "--model", demo.MODEL, "--task", "feature-extraction", "--dataset", dataset),
        *(
            "--set",
            "mode=jit",
            "--set",
            "precision=fp32",
            "--set",
            "padding=length_sorted",
            "--trials",
            "3",
            "--time-budget",
            "120s",
            "--json",
        ),
    )
    assert done.returncode == 0, done.stderr
    report = reported(done)
    assert {e["config"]["mode"] for e in report["best_by_mode"]} >= {"jit"}
    assert report["baseline"]["metrics"] == {"cosine": pytest.approx(100), "neighbours": 100}
    assert all(e["metrics"]["cosine"] > 99.99 for e in report["best_by_mode"])
    assert report["launch_check"]["same_metrics"], report["launch_check"]
    assert report["huggingface"] is None


@pytest.mark.full
@pytest.mark.parametrize(
    ("task", "model", "data"),
    [
        ("text-classification", "minilm-l6-sst2", "sst2-dev.jsonl"),
        ("token-classification", "minilm-l6-wnut17", "wnut17-dev.jsonl"),
    ],
)
def test_trained_models_read_their_published_scores(autotune, tmp_path, shared, task, model, data):
    folder, dataset = shared / "models" / model, shared / "data" / data
    done = autotune(
        *(
            "search",
            "--model",
            folder,
            "--task",
            task,
            "--dataset",
            dataset,
            "--trials",
            "1",
            "--time-budget",
            "30s",
        ),
        *("--max-samples", "0", "--output", tmp_path / "run", "--json"),
    )
    assert done.returncode == 0, done.stderr
    report = reported(done)
    own = float(python(INDEPENDENT, folder, dataset, task.partition("-")[0]))
    assert report["baseline"]["metrics"][report["metrics"][0]] == pytest.approx(own, abs=0.05)


ALONE = """
import inspect, json, sys
import numpy as np, torch, transformers as t
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, f1_score
folder, dataset = sys.argv[1:3]
rows = [json.loads(line) for line in open(dataset)]
tokenizer = t.AutoTokenizer.from_pretrained(folder)
model = t.AutoModelForSequenceClassification.from_pretrained(folder).eval()
logits = []
for row in rows:
    texts = [row[name] for name in ("sentence1", "sentence2") if name in row]
    inputs = tokenizer(*texts, truncation=True, max_length=128, return_tensors="pt")
    named = inspect.signature(model.forward).parameters
    taken = {k: v for k, v in inputs.items() if k in named}
    with torch.no_grad():
        logits.append(model(**taken).logits[0].numpy())
logits, wanted = np.array(logits), [row["label"] for row in rows]
names = [model.config.id2label[i] for i in range(logits.shape[1])]
if model.config.problem_type == "multi_label_classification":
    expected = [[name in labels for name in names] for labels in wanted]
    print(100 * f1_score(expected, logits > 0, average="micro"))
elif len(names) == 1:
    print(100 * pearsonr(logits[:, 0], wanted)[0])
else:
    print(100 * accuracy_score(wanted, [names[i] for i in logits.argmax(1)]))
"""
LABELS = ("bad", "good", "so so")


def rows_of(kind):
    """Rows of 24 sentences, of which some repeat: pairs, several labels, numbers or one label."""
    rows = []
    for n, words in enumerate(sentences()):
        row = {"sentence1": " ".join(words), "label": LABELS[n % 3]}
        if kind in ("pair", "regression"):
            row["sentence2"] = " ".join(WORDS[n % 4 : n % 4 + 2 + n % 5])
        if kind == "multi-label":
            row["label"] = [name for i, name in enumerate(LABELS) if n >> i & 1]
        if kind == "regression":
            row["label"] = n % 7 / 7
        rows.append(row)
    return rows


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "kind", "metric"),
    [
        ("bert", "pair", "accuracy"),
        ("distilbert", "multi-label", "f1"),
        ("xlm-roberta", "regression", "pearson"),  # as cross-encoders and models of STS
        ("llama", "single", "accuracy"),
        ("qwen2", "single", "accuracy"),
        ("gpt2", "single", "accuracy"),
    ],
)
def test_classifiers_of_every_kind_read_what_each_row_alone_does(
    autotune, tmp_path, family, kind, metric
):
    labels = LABELS if kind != "regression" else ("score",)
    settings = {"id2label": dict(enumerate(labels)), "initializer_range": 0.4}
    settings["label2id"] = {label: number for number, label in enumerate(labels)}
    if kind == "multi-label":
        settings["problem_type"] = "multi_label_classification"
    model = build(tmp_path / "model", family, "text-classification", **settings)
    dataset = tmp_path / "d.jsonl"
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)))
    own = float(python(ALONE, model, dataset))
    options = ("--model", model, "--dataset", dataset, "--set", "padding=length_sorted")
    check_search(autotune, metric, own, *options)


def check_search(autotune, metric, own, *options):
    """A search in which eager, jit and launch.sh read the `metric` that is `own`."""
    done = autotune(
        *("search", *options, "--trials", "3", "--time-budget", "240s", "--json"),
        *("--set", "mode=jit", "--set", "precision=fp32", "--accept-degenerate"),
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    report = reported(done)
    assert report["metrics"][0] == metric
    assert report["baseline"]["metrics"][metric] == pytest.approx(own, abs=1e-3)
    assert {e["config"]["mode"] for e in report["best_by_mode"]} >= {"jit"}
    for entry in report["best_by_mode"]:
        assert entry["metrics"][metric] == pytest.approx(own, abs=1e-3)
    assert report["launch_check"]["same_metrics"], report["launch_check"]
    return report


IMAGES_ALONE = """
import sys, PIL.Image, torch, transformers as t
from pathlib import Path
folder, data = sys.argv[1:3]
processor = t.AutoImageProcessor.from_pretrained(folder, use_fast=False)
model = t.AutoModelForImageClassification.from_pretrained(folder).eval()
paths, right = sorted(Path(data).rglob("*.png")), 0
for path in paths:
    inputs = processor(PIL.Image.open(path).convert("RGB"), return_tensors="pt")
    right += model.config.id2label[int(model(**inputs).logits.argmax())] == path.parent.name
print(100 * right / len(paths))
"""


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_images_are_classified_as_each_image_alone(autotune, tmp_path, name):
    pytest.importorskip("PIL.Image")
    model = build_image_model(tmp_path / "model", name, LABELS)
    data = draw_images(tmp_path / "data", LABELS, 8)
    own = float(python(IMAGES_ALONE, model, data))
    report = check_search(autotune, "accuracy", own, "--model", model, "--dataset", data)
    assert not any("padding" in entry["config"] for entry in report["best_by_mode"])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ('{"image": "bad.png", "label": "good"}\n', "bad.png cannot be read as an image"),
        ('{"image": "none.png", "label": "good"}\n', "none.png: no such file"),
        ('{"image": "fine.png", "label": "blue"}\n', "(blue) are not the model's (bad, good, so"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_images_that_cannot_be_scored_are_refused_in_one_line(autotune, tmp_path, rows, words):
    pillow = pytest.importorskip("PIL.Image")
    model = build_image_model(tmp_path / "model", "vit", LABELS)
    (tmp_path / "bad.png").write_bytes(b"no image")
    pillow.new("RGB", (8, 8)).save(tmp_path / "fine.png")
    (tmp_path / "d.jsonl").write_text(rows)
    done = autotune("search", "--model", model, "--dataset", tmp_path / "d.jsonl", "--quiet")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_labels_that_are_not_the_models_are_refused_before_anything_is_measured(autotune, tmp_path):
    model, dataset = tmp_path / "model", tmp_path / "d.jsonl"
    python(MAKE, "BertForSequenceClassification", "yes,no", model, demo.MODEL)
    dataset.write_text("".join(json.dumps(row) + "\n" for row in text_rows()))
    done = autotune(
        *("search", "--model", model, "--task", "text-classification"),
        *("--dataset", dataset, "--output", tmp_path / "run"),
    )
    assert done.returncode == 2
    assert "(bad, good, so so) are not the model's (yes, no)" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--doc-stride", "5"), "--doc-stride: text-classification cuts long texts off"),
        (("--text-column", "body"), "--text-column body: "),
    ],
)
def test_options_that_do_not_apply_are_refused(autotune, tmp_path, options, words):
    (tmp_path / "d.jsonl").write_text('{"sentence": "a", "label": 0}\n')
    done = autotune(
        *("search", "--model", "demo", "--task", "text-classification"),
        *("--dataset", tmp_path / "d.jsonl", *options),
    )
    assert done.returncode == 2
    assert words in done.stderr
