"""Vectors of texts, made inside the graph, against sentence-transformers and against torch alone.

The models are small and random. Each folder has the files that sentence-transformers writes.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from engine_alone import run_alone
from families import build, make_tokenizer

from autotune.shared.errors import TrialFailure
from autotune.tasks import task_named
from autotune.worker.batches import Features

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]

TASK = task_named("feature-extraction")
TEXTS = ["a plain start", "Two friends meet again by the sea, after MANY years", "no", "rain!"]
SIZE, SMALLER = 64, 24
POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
EQUAL = 1e-5


def sentence_folder(
    folder, *modes, steps=(), family="bert", side="right", prompts=None, texts=None, pooling=None
):
    """A model with the files of sentence-transformers. `steps` follow the pooling."""
    import torch
    from safetensors.torch import save_file

    kind = "wordpiece" if family == "bert" else "bytes"
    tokenizer = make_tokenizer(kind, padding_side=side)
    build(folder, family, "feature-extraction", tokenizer=tokenizer)
    module = "sentence_transformers.models."
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules += [(f"{n}_{step}", step) for n, step in enumerate(steps, start=2)]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": n, "name": str(n), "path": path, "type": module + name}
                for n, (path, name) in enumerate(modules)
            ]
        )
    )
    for path, name in modules[1:]:
        (folder / path).mkdir()
        settings = {}
        if name == "Pooling":
            settings = {"word_embedding_dimension": SIZE, **(pooling or {})}
            settings |= {setting: mode in modes for mode, setting in POOLINGS.items()}
        if name == "Dense":
            width = SIZE * len(modes)
            settings = {"in_features": width, "out_features": SMALLER, "bias": True}
            settings["activation_function"] = "torch.nn.modules.activation.Tanh"
            torch.manual_seed(1)
            linear = torch.nn.Linear(width, SMALLER)
            weights = {f"linear.{name}": w.detach() for name, w in linear.named_parameters()}
            save_file(weights, folder / path / "model.safetensors")
        (folder / path / "config.json").write_text(json.dumps(settings))
    limits = {"max_seq_length": 20, "do_lower_case": False, **(texts or {})}
    (folder / "sentence_bert_config.json").write_text(json.dumps(limits))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts or {}))
    return folder


def features_of(folder, where, *, texts=TEXTS, max_seq_length=None):
    from autotune.worker.work import work_named

    where.mkdir()
    rows = where / "rows.json"
    rows.write_text(json.dumps({"text": texts, "text_pair": None}))
    source = TASK.source(str(folder))
    facts = work_named(source.work).encode(
        source,
        sets=[{"rows_file": str(rows), "folder": str(where)}],
        max_seq_length=max_seq_length or TASK.max_seq_length_of(folder),
        doc_stride=None,
        words=False,
    )
    return Features.load(str(where)), facts, source


def vectors(features, source, width):
    """What eager float32 answers for all rows as one batch of `width` tokens."""
    from autotune.worker.engines import torch_model

    model, _ = torch_model.load(source, own_pad_token=features.own_pad_token)
    inputs = features.model_inputs
    positional = torch_model.Positional(model, inputs, tuple(source.outputs))
    rows = list(range(len(features)))
    (found,) = torch_model.Runnable(positional, inputs)(features.batch(rows, width))
    return found


def independent(folder, modes, texts=TEXTS):
    """The poolings of each text alone, by transformers and numpy."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    found = []
    for text in texts:
        row = tokenizer(text, truncation=True, max_length=20, return_tensors="pt")
        names = ("input_ids", "attention_mask", "token_type_ids")
        with torch.no_grad():
            output = model(**{name: row[name] for name in names if name in row})
        states = output.last_hidden_state[0].numpy()
        weights = np.arange(1, len(states) + 1)[:, None]
        pooled = {
            "cls": states[0],
            "max": states.max(0),
            "mean": states.mean(0),
            "mean_sqrt_len_tokens": states.sum(0) / np.sqrt(len(states)),
            "weightedmean": (states * weights).sum(0) / weights.sum(),
            "lasttoken": states[-1],
        }
        found.append(np.concatenate([pooled[mode] for mode in modes]))
    return np.array(found)


FOLDERS = {
    "mean": {"modes": ["mean"]},
    "cls": {"modes": ["cls"]},
    "max": {"modes": ["max"]},
    "square root of the length": {"modes": ["mean_sqrt_len_tokens"]},
    "weighted mean": {"modes": ["weightedmean"], "family": "gpt2"},
    "last token, padded right": {"modes": ["lasttoken"], "family": "qwen2"},
    "last token, padded left": {"modes": ["lasttoken"], "family": "qwen2", "side": "left"},
    "the last token of an encoder": {"modes": ["lasttoken"]},
    "two poolings": {"modes": ["cls", "mean"]},
    "normalized": {"modes": ["mean"], "steps": ("Normalize",)},
    "dense and normalized": {"modes": ["mean"], "steps": ("Dense", "Normalize")},
    "in lower case": {"modes": ["mean"], "family": "qwen2", "texts": {"do_lower_case": True}},
    "a default prompt": {
        "modes": ["mean"],
        "prompts": {"prompts": {"query": "find: "}, "default_prompt_name": "query"},
    },
    "a prompt that is not pooled": {
        "modes": ["mean"],
        "prompts": {"prompts": {"query": "find: "}, "default_prompt_name": "query"},
        "pooling": {"include_prompt": False},
    },
    "a prompt that weights count": {
        "modes": ["weightedmean"],
        "prompts": {"prompts": {"query": "find: "}, "default_prompt_name": "query"},
        "pooling": {"include_prompt": False},
    },
    "poolings in an order of their own": {
        "modes": ["mean", "cls"],
        "pooling": {"pooling_mode": ["mean", "cls"]},
    },
}


def made(folder, modes, **options):
    return sentence_folder(folder, *modes, **options)


@pytest.mark.parametrize("name", FOLDERS)
def test_vectors_are_those_that_sentence_transformers_encodes(name, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    folder = made(tmp_path / "model", **FOLDERS[name])
    features, _, source = features_of(folder, tmp_path / "features")
    expected = library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    for width in (int(features.lengths.max()), 20):
        found = vectors(features, source, width)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=EQUAL)


def test_folders_that_sentence_transformers_saves_are_read(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    written = made(tmp_path / "model", **FOLDERS["dense and normalized"])
    loaded = library.SentenceTransformer(str(written), device="cpu")
    saved = tmp_path / "saved"
    loaded.save(str(saved))
    assert TASK.max_seq_length_of(saved) == 20
    features, _, source = features_of(saved, tmp_path / "features")
    np.testing.assert_allclose(vectors(features, source, 20), loaded.encode(TEXTS), atol=EQUAL)


@pytest.mark.parametrize("name", ["mean", "cls", "max", "two poolings", "weighted mean"])
def test_vectors_are_the_poolings_of_each_text_alone(name, tmp_path):
    folder = made(tmp_path / "model", **FOLDERS[name])
    features, _, source = features_of(folder, tmp_path / "features")
    expected = independent(folder, FOLDERS[name]["modes"])
    np.testing.assert_allclose(vectors(features, source, 20), expected, atol=EQUAL)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_last_token_is_the_last_real_one_on_either_side_of_the_padding(side, tmp_path):
    folder = sentence_folder(tmp_path / "model", "lasttoken", family="qwen2", side=side)
    features, _, source = features_of(folder, tmp_path / "features")
    assert features.padding_side == side
    expected = independent(folder, ["lasttoken"])
    np.testing.assert_allclose(vectors(features, source, 20), expected, atol=EQUAL)


def test_a_folder_without_modules_gives_the_mean_of_the_tokens(tmp_path):
    folder = build(tmp_path / "model", "bert", "feature-extraction")
    assert TASK.max_seq_length_of(folder) == TASK.default_max_seq_length
    features, facts, source = features_of(folder, tmp_path / "features", max_seq_length=20)
    assert facts.architecture == "BertModel"
    np.testing.assert_allclose(
        vectors(features, source, 20), independent(folder, ["mean"]), atol=EQUAL
    )


def test_pooling_reads_the_mask_even_if_the_model_does_not(tmp_path):
    build(tmp_path / "model", "fnet", "feature-extraction")
    features, _, source = features_of(tmp_path / "model", tmp_path / "f", texts=["abc", "abc def"])
    assert features.model_inputs == ("input_ids", "token_type_ids", "attention_mask")
    assert vectors(features, source, int(features.lengths.max())).shape == (2, SIZE)


def test_the_folder_says_how_long_a_text_may_be(tmp_path):
    folder = sentence_folder(tmp_path / "model", "mean")
    assert TASK.max_seq_length_of(folder) == 20
    (folder / "sentence_bert_config.json").write_text("{}")
    assert TASK.max_seq_length_of(folder) == 512  # max_position_embeddings
    assert TASK.max_seq_length_of(None) == TASK.default_max_seq_length


def test_what_is_run_is_part_of_the_models_digest(tmp_path):
    from autotune.worker.encode import model_digest

    folder = sentence_folder(tmp_path / "model", "mean", steps=("Dense",))
    source = TASK.source(str(folder))
    digests = {model_digest(source)}
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("true", "false"))
    digests.add(model_digest(source))
    weights = folder / "2_Dense" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert len({*digests, model_digest(source)}) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "sentence_transformers.models.CNN"}, "module 2 is CNN; vectors are made by"),
        ({"type": "mine.Head"}, "module 2 is mine.Head, which is code of its own; vectors are"),
        ({"type": "mine.Normalize"}, "module 2 is mine.Normalize, which is code of its own"),
    ],
)
def test_modules_that_are_not_honoured_are_refused(change, words, tmp_path):
    folder = sentence_folder(tmp_path / "model", "mean", steps=("Normalize",))
    modules = json.loads((folder / "modules.json").read_text())
    modules[2] |= change
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(TrialFailure, match=words):
        features_of(folder, tmp_path / "features")


def files_only(folder, pooling=None, path="1_Pooling", dense=None, **texts):
    """The files of sentence-transformers without a model."""
    kinds = [("", "models.Transformer"), (path, "sentence_transformer.modules.pooling.Pooling")]
    kinds += [("2_Dense", "base.modules.dense.Dense")] if dense else []
    modules = [{"path": place, "type": f"sentence_transformers.{kind}"} for place, kind in kinds]
    files = {"modules.json": modules, "1_Pooling/config.json": pooling or {}}
    files |= {"2_Dense/config.json": dense} if dense else {}
    for name, content in {**files, **texts}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return TASK.source(str(folder))


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        ({"pooling_mode": "mean_sqrt_len"}, ("mean_sqrt_len_tokens",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}, ("mean",)),
        ({}, ("mean",)),
    ],
)
def test_poolings_are_joined_in_the_order_of_sentence_transformers(pooling, modes, tmp_path):
    from autotune.worker.work.embedding import read_recipe

    assert read_recipe(files_only(tmp_path, pooling)).poolings == modes


@pytest.mark.parametrize(
    ("pooling", "words"),
    [({"pooling_mode": []}, "it pools by nothing"), ({"pooling_mode": "sum"}, "it pools by sum")],
)
def test_a_pooling_of_no_known_kind_is_refused(pooling, words, tmp_path):
    from autotune.worker.work.embedding import read_recipe

    with pytest.raises(TrialFailure, match=words):
        read_recipe(files_only(tmp_path, pooling))


@pytest.mark.parametrize("path", ["/etc", "../other", "1_Pooling/../..", "linked"])
def test_a_module_outside_of_the_folder_is_refused(path, tmp_path):
    from autotune.worker.encode import model_digest
    from autotune.worker.work.embedding import read_recipe

    source = files_only(tmp_path / "model", path=path)
    (tmp_path / "other").mkdir()
    (tmp_path / "model" / "linked").symlink_to(tmp_path / "other")
    for read in (read_recipe, model_digest):
        with pytest.raises(TrialFailure, match=r"modules.json is malformed: .* leads out of the f"):
            read(source)


def test_the_digest_is_of_files_alone_and_follows_their_links(tmp_path):
    """The hub's cache keeps the content of each file elsewhere, and links to it."""
    from autotune.worker.encode import model_digest

    source = files_only(tmp_path / "model")
    blob = tmp_path / "blob"
    blob.write_text("{}")
    pooling = tmp_path / "model" / "1_Pooling"
    (pooling / "deeper").mkdir()
    (pooling / "config.json").unlink()
    (pooling / "config.json").symlink_to(blob)
    before = model_digest(source)
    blob.write_text('{"pooling_mode": "cls"}')
    assert model_digest(source) != before


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", {"a": 1}),
        ("modules.json", [{"path": ""}]),
        ("modules.json", 3),
        ("1_Pooling/config.json", [1]),
        ("1_Pooling/config.json", {"pooling_mode": 3}),
        ("sentence_bert_config.json", [1]),
        ("config_sentence_transformers.json", {"default_prompt_name": "a", "prompts": [1]}),
        ("2_Dense/config.json", {"in_features": 3}),
        ("2_Dense/config.json", {"in_features": "x", "out_features": 2}),
    ],
)
def test_files_that_are_malformed_are_named_in_one_line(file, content, tmp_path):
    from autotune.worker.work.embedding import Dense, read_recipe

    source = files_only(tmp_path, **{"dense": {"in_features": 1}, file: content})
    with pytest.raises(TrialFailure, match=f"{file} is malformed: ") as caught:
        Dense(source, next(folder for _, folder in read_recipe(source).steps))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["torch.nn.GELU", "torch.nn.modules.activation.GELU"])
def test_a_dense_layer_has_a_bias_unless_its_file_says_no(name, tmp_path):
    import torch
    from safetensors.torch import save_file

    from autotune.worker.work.embedding import Dense

    settings = {"in_features": 2, "out_features": 1, "activation_function": name}
    source = files_only(tmp_path, dense=settings)
    weights = {"linear.weight": torch.ones(1, 2), "linear.bias": torch.ones(1)}
    save_file(weights, tmp_path / "2_Dense" / "model.safetensors")
    found = Dense(source, "2_Dense")(torch.ones(1, 2))
    torch.testing.assert_close(found, torch.nn.functional.gelu(torch.tensor([[3.0]])))


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "xlnet"])
def test_other_names_of_the_settings_file_are_read(family, tmp_path):
    from autotune.worker.encode import model_digest
    from autotune.worker.work.embedding import read_recipe

    source = files_only(tmp_path)
    before = model_digest(source)
    texts = {"max_seq_length": 77, "do_lower_case": True}
    (tmp_path / f"sentence_{family}_config.json").write_text(json.dumps(texts))
    assert TASK.max_seq_length_of(tmp_path) == 77
    assert read_recipe(source).lower
    assert model_digest(source) != before


def test_weights_count_the_tokens_of_a_prompt_that_is_not_pooled():
    import torch

    from autotune.worker.work.embedding import Pooling

    hidden = torch.tensor([[[8.0], [1.0], [2.0], [9.0]]])
    found = Pooling(["weightedmean"], skipped=1)(hidden, torch.tensor([[1, 1, 1, 0]]))
    assert found.item() == pytest.approx((2 * 1 + 3 * 2) / (2 + 3))


def test_a_hub_model_of_unknown_modules_is_said_to_be_one(tmp_path, monkeypatch):
    import huggingface_hub

    from autotune.worker.work import embedding

    hub = TASK.source("owner/name")
    monkeypatch.setattr(embedding, "_file", lambda source, name: None)
    looked_up = "try_to_load_from_cache"
    monkeypatch.setattr(huggingface_hub, looked_up, lambda *_, **__: None)
    assert embedding._unknown_modules(hub)
    assert not embedding._unknown_modules(TASK.source(str(tmp_path)))  # a folder is all there is
    absent = huggingface_hub._CACHED_NO_EXIST
    monkeypatch.setattr(huggingface_hub, looked_up, lambda *_, **__: absent)
    assert not embedding._unknown_modules(hub)


ENGINES = [  # engine knobs, and how far a component may be off (of vectors of length 1)
    ({"mode": "jit", "precision": "fp32"}, 1e-4),
    ({"mode": "inductor", "precision": "fp32"}, 1e-4),
    ({"mode": "ipex", "precision": "bf16"}, 0.05),
    ({"mode": "ipex_jit", "precision": "fp32"}, 1e-4),
    ({"mode": "ipex_jit", "precision": "int8_dynamic", "int8_rest": "fp32"}, 0.1),
    ({"mode": "ipex_jit", "precision": "int8_static", "int8_rest": "fp32"}, 0.1),
    ({"mode": "inductor", "precision": "int8_static"}, 0.1),
    ({"mode": "onnxruntime", "precision": "fp32"}, 1e-4),
    ({"mode": "onnxruntime", "precision": "int8_dynamic"}, 0.1),
    ({"mode": "openvino", "precision": "fp32"}, 1e-4),
    ({"mode": "openvino", "precision": "int8_static"}, 0.1),
    ({"mode": "jit", "precision": "bf16", "bf16_method": "full"}, 0.05),
    ({"mode": "eager", "precision": "int8_dynamic", "linear": "torch"}, 0.1),
]


COMPARE = """
import json, pathlib, sys
from engine_alone import difference
from test_embeddings import TEXTS, features_of, vectors

folder, options = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
texts = [f"{text} {number}" for number in range(4) for text in TEXTS]
features, _, source = features_of(folder, folder / "features", texts=texts)
expected = vectors(features, source, 20)[:4]
print(difference(features, source, folder, options, attention="sdpa", width=20, expected=expected))
"""


@pytest.mark.full
@pytest.mark.parametrize(("options", "limit"), ENGINES, ids=str)
@pytest.mark.parametrize("name", ["dense and normalized", "the last token of an encoder", "max"])
def test_every_engine_makes_the_vectors_of_eager(name, options, limit, tmp_path):
    """Each engine has a process of its own: IPEX changes the kernels of the process it is in."""
    folder = made(tmp_path / "model", **FOLDERS[name])
    assert run_alone(COMPARE, folder, options) <= limit
