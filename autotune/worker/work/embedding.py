"""Sentence embeddings: one vector for each text, made from its tokens' last hidden states.

The vector is made inside the graph, so an engine runs what a service would run. A folder of
sentence-transformers says how, in modules.json and the folders that it names. A folder without
modules.json gives the mean over the tokens of a text.

Source: Reimers and Gurevych, Sentence-BERT, 2019; the library sentence-transformers 5.7, whose
modules Transformer, Pooling, Dense, Normalize and Dropout are honoured. Its other modules are
refused.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autotune.shared.errors import TrialFailure
from autotune.shared.records import ModelSource
from autotune.worker.inputs import MASK
from autotune.worker.slim import transformers
from autotune.worker.work.text import TextWork

OUTPUT = "sentence_embedding"
MODULES = "modules.json"
SENTENCE_FILES = (MODULES, "sentence_bert_config.json", "config_sentence_transformers.json")
POOLINGS = {  # setting of 1_Pooling/config.json -> mode; vectors are joined in this order
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
OTHER_NAMES = {"mean_sqrt_len": "mean_sqrt_len_tokens"}
BELOW_EVERYTHING = -1e9
"""The value of padding when the largest value of each dimension is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a folder makes vectors from texts.

    `steps` follow the pooling: the name of a module of sentence-transformers, and its folder.
    `lower` says whether the text, with its prompt, is converted to lower case. Early versions of
    the library also removed whitespace at its ends; later ones do not, and neither does this.
    """

    poolings: tuple[str, ...] = ("mean",)
    steps: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    pools_prompt: bool = True
    lower: bool = False

    def as_tokenized(self, text: str) -> str:
        return text.lower() if self.lower else text


def read_recipe(source: ModelSource) -> Recipe:
    """The recipe of the model's folder. Raises TrialFailure `unsupported` for other modules."""
    modules: Any = _read_json(source, MODULES)
    if modules is None:
        return Recipe()
    poolings: tuple[str, ...] = ()
    steps: list[tuple[str, str]] = []
    pools_prompt = True
    for place, module in enumerate(modules):
        kind, folder = str(module["type"]).rpartition(".")[2], str(module.get("path") or "")
        if place == 0:
            if kind != "Transformer" or folder:
                raise _refused(source, f"its first module is {kind} in {folder or 'the folder'}")
        elif kind == "Pooling" and not poolings:
            settings = _read_json(source, f"{folder}/config.json") or {}
            poolings = _poolings(source, settings)
            pools_prompt = bool(settings.get("include_prompt", True))
        elif kind in STEPS and poolings:
            steps.append((kind, folder))
        else:
            raise _refused(source, f"module {place} is {kind}")
    if not poolings:
        raise _refused(source, "it has no module Pooling")
    texts = _read_json(source, "sentence_bert_config.json") or {}
    prompts = _read_json(source, "config_sentence_transformers.json") or {}
    named = prompts.get("default_prompt_name")
    return Recipe(
        poolings=poolings,
        steps=tuple(steps),
        prompt=str((prompts.get("prompts") or {}).get(named) or "") if named else "",
        pools_prompt=pools_prompt,
        lower=bool(texts.get("do_lower_case", False)),
    )


def _poolings(source: ModelSource, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes of a module Pooling. Later versions of the library name them in one setting."""
    named = settings.get("pooling_mode")
    if named is not None:
        asked = [named] if isinstance(named, str) else list(named)
        asked = [OTHER_NAMES.get(name, name) for name in asked]
    else:
        asked = [mode for name, mode in POOLINGS.items() if settings.get(name, False)]
    unknown = [name for name in asked if name not in POOLINGS.values()]
    if unknown or not asked:
        raise _refused(source, f"it pools by {', '.join(map(str, unknown)) or 'nothing'}")
    return tuple(mode for mode in POOLINGS.values() if mode in asked)


def _refused(source: ModelSource, what: str) -> TrialFailure:
    return TrialFailure(
        "unsupported",
        f"{source.path}: {what}; vectors are made by Transformer, Pooling and then "
        f"{', '.join(STEPS)}, each in a folder as sentence-transformers saves it",
    )


def _file(source: ModelSource, name: str) -> Path | None:
    """A file of the model's folder, or of the hub's cache. None if the model has no such file."""
    if Path(source.path).is_dir():
        path = Path(source.path) / name
        return path if path.is_file() else None
    found = transformers.utils.cached_file(
        source.path,
        name,
        revision=source.revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def _read_json(source: ModelSource, name: str) -> Any:
    """The content of a JSON file of the model. None if there is none."""
    path = _file(source, name)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrialFailure("unsupported", f"{path} is not JSON: {error}") from error


class Pooling(torch.nn.Module):
    """The vectors of texts, from hidden states (batch, width, size) and the mask (batch, width).

    Several `modes` join their vectors. Padding changes no vector, on whichever side it is: the
    first token is the first real one, and weights count real tokens. The `skipped` first tokens
    of each text are left out, except as the first token.
    """

    def __init__(self, modes: Sequence[str], skipped: int = 0) -> None:
        super().__init__()
        self.modes, self.skipped = tuple(modes), skipped

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        first = mask
        if self.skipped:
            mask = mask * (mask.cumsum(1) > self.skipped).to(mask.dtype)
        real = mask.unsqueeze(-1).to(torch.float32)
        states = hidden.to(torch.float32)
        vectors = []
        for mode in self.modes:
            if mode == "cls":
                vectors.append(_at(states, _places(first, last=False)))
            elif mode == "lasttoken":
                vectors.append(_at(states, _places(mask, last=True)))
            elif mode == "max":
                lowest = torch.full_like(states, BELOW_EVERYTHING)
                vectors.append(torch.where(real > 0, states, lowest).amax(1))
            elif mode == "weightedmean":
                weights = real * mask.cumsum(1).unsqueeze(-1).to(torch.float32)
                vectors.append((states * weights).sum(1) / weights.sum(1).clamp(min=1e-9))
            else:
                count = real.sum(1).clamp(min=1e-9)
                count = count.sqrt() if mode == "mean_sqrt_len_tokens" else count
                vectors.append((states * real).sum(1) / count)
        return torch.cat(vectors, 1).to(hidden.dtype)


def _places(mask: torch.Tensor, *, last: bool) -> torch.Tensor:
    """The column of the first or last real token of each row: shape (batch,)."""
    width = mask.shape[1]
    columns = torch.arange(width, device=mask.device).unsqueeze(0)
    if last:
        return (columns * mask).amax(1)
    return width - 1 - ((width - 1 - columns) * mask).amax(1)


def _at(states: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """The hidden state in one column of each row: shape (batch, size)."""
    index = places.reshape(-1, 1, 1).expand(-1, 1, states.shape[2])
    return states.gather(1, index).squeeze(1)


class Dense(torch.nn.Module):
    """A Linear layer and its activation, as the module Dense of sentence-transformers."""

    def __init__(self, source: ModelSource, folder: str) -> None:
        super().__init__()
        settings = _read_json(source, f"{folder}/config.json") or {}
        self.linear = torch.nn.Linear(
            int(settings["in_features"]), int(settings["out_features"]), bool(settings["bias"])
        )
        self.linear.load_state_dict(
            {name.removeprefix("linear."): w for name, w in _weights(source, folder).items()}
        )
        self.activation = _activation(source, settings.get("activation_function"))
        for name in ("module_input_name", "module_output_name"):
            if settings.get(name) not in (None, OUTPUT):
                raise _refused(source, f"{folder} has {name} {settings[name]!r}")

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.activation(self.linear(vectors))


def _weights(source: ModelSource, folder: str) -> dict[str, torch.Tensor]:
    """The float32 weights of a module. Raises TrialFailure `unsupported` if there are none."""
    safe = _file(source, f"{folder}/model.safetensors")
    if safe is not None:
        from safetensors.torch import load_file

        found = load_file(str(safe))
    else:
        pickled = _file(source, f"{folder}/pytorch_model.bin")
        if pickled is None or not source.allow_pickle:
            raise TrialFailure(
                "unsupported",
                f"{source.path}/{folder} has no model.safetensors"
                + ("; pass --allow-pickle to load pickled weights" if pickled else ""),
            )
        found = torch.load(str(pickled), map_location="cpu", weights_only=True)
    return {name: weight.float() for name, weight in found.items()}


def _activation(source: ModelSource, name: str | None) -> torch.nn.Module:
    """torch's activation of that name. The library's default is the hyperbolic tangent."""
    module, _, class_name = (name or "torch.nn.modules.activation.Tanh").rpartition(".")
    known = module.startswith("torch.nn.modules.") and hasattr(torch.nn, class_name)
    if not known:
        raise _refused(source, f"the activation {name} is not torch's")
    found = getattr(torch.nn, class_name)()
    assert isinstance(found, torch.nn.Module)
    return found


class Normalize(torch.nn.Module):
    """Vectors scaled to length 1."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        length = vectors.to(torch.float32).square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
        return (vectors / length).to(vectors.dtype)


STEPS: dict[str, Callable[[ModelSource, str], torch.nn.Module]] = {
    "Dense": Dense,
    "Normalize": lambda source, folder: Normalize(),
    "Dropout": lambda source, folder: torch.nn.Identity(),
}
"""Module of sentence-transformers -> what makes it from its folder."""


class SentenceModel(torch.nn.Module):
    """A model of transformers with the pooling and the steps that follow it."""

    def __init__(self, encoder: Any, pooling: Pooling, steps: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling
        self.steps = torch.nn.Sequential(*steps)
        self.reads_mask = MASK in _parameters(encoder)
        self.eval()

    @property
    def config(self) -> Any:
        return self.encoder.config

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = inputs[MASK]
        if not self.reads_mask:
            inputs = {name: value for name, value in inputs.items() if name != MASK}
        hidden = self.encoder(**inputs)["last_hidden_state"]
        return {OUTPUT: self.steps(self.pooling(hidden, mask))}


def _parameters(model: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(model.forward).parameters)


class EmbeddingWork(TextWork):
    def assemble(self, model: Any, source: ModelSource) -> Any:
        recipe = read_recipe(source)
        skipped = 0
        if recipe.prompt and not recipe.pools_prompt:
            skipped = _prompt_tokens(source, recipe)
        steps = [STEPS[kind](source, folder) for kind, folder in recipe.steps]
        return SentenceModel(model, Pooling(recipe.poolings, skipped), steps)

    def core(self, assembled: Any) -> Any:
        return assembled.encoder

    def files(self, folder: Path) -> set[Path]:
        own = {path for name in SENTENCE_FILES if (path := folder / name).is_file()}
        if folder / MODULES not in own:
            return set()
        modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        inner = [str(module["path"]) for module in modules if module.get("path")]
        return own | {path for name in inner for path in (folder / name).glob("*")}

    def inputs(self, model: Any, tokenizer: Any) -> tuple[str, ...]:
        """As of every text, and the mask: pooling reads it even if the model does not."""
        names = super().inputs(model.encoder, tokenizer)
        return names if MASK in names else (*names, MASK)

    def rewritten(self, texts: Sequence[Any], source: ModelSource) -> Sequence[Any]:
        recipe = read_recipe(source)
        return [recipe.as_tokenized(recipe.prompt + text) for text in texts]


def _prompt_tokens(source: ModelSource, recipe: Recipe) -> int:
    """The tokens of a text that belong to its prompt, as sentence-transformers counts them.

    These are the tokens of the prompt alone, without the one that ends a text.
    """
    from autotune.worker.encode import load_tokenizer

    tokenizer = load_tokenizer(source)
    ids = tokenizer(recipe.as_tokenized(recipe.prompt))["input_ids"]
    return len(ids) - (1 if ids and ids[-1] in tokenizer.all_special_ids else 0)
