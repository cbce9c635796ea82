"""Sentence embeddings: one vector for each text, made from its tokens' last hidden states.

The vector is made inside the graph, so an engine runs what a service would run. A folder of
sentence-transformers says how, in modules.json and the folders that it names. A folder without
modules.json gives the mean over the tokens of a text. So does a hub model for which it cannot be
known whether it has modules.json, since it was downloaded without and the hub does not answer. Then
a note says so: most models of transformers have no modules.json, so a refusal would be too strict.

Source: Reimers and Gurevych, Sentence-BERT, 2019; the library sentence-transformers 5.7, whose
modules Transformer, Pooling, Dense, Normalize and Dropout are honoured. Its other modules are
refused, and so are modules of any other package.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from autotune.shared.errors import TrialFailure, describe
from autotune.shared.folders import SENTENCE_SETTINGS
from autotune.shared.records import ModelFacts, ModelSource
from autotune.worker.inputs import MASK
from autotune.worker.slim import transformers
from autotune.worker.work.text import TextWork

OUTPUT = "sentence_embedding"
MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
SENTENCE_FILES = (MODULES, *SENTENCE_SETTINGS, PROMPTS)
LIBRARY = "sentence_transformers"
POOLINGS = {  # setting of 1_Pooling/config.json -> mode; so set, vectors are joined in this order
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
OTHER_NAMES = {"mean_sqrt_len": "mean_sqrt_len_tokens"}
UNKNOWN_MODULES = (
    "vectors are the mean over the tokens: modules.json is not in the local cache, and the hub "
    "cannot be asked for it; if the model has one, download all of it and pass --model DIR"
)
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
    """The recipe of the model's folder. Raises TrialFailure `unsupported` for other modules, and
    for files that cannot be understood."""
    file = _file(source, MODULES)
    if file is None:
        return Recipe()
    modules = _modules(file)
    poolings: tuple[str, ...] = ()
    steps: list[tuple[str, str]] = []
    pools_prompt = True
    for place, (type_, folder) in enumerate(modules):
        package, kind = type_.partition(".")[0], type_.rpartition(".")[2]
        if package != LIBRARY:
            raise _refused(source, f"module {place} is {type_}, which is code of its own")
        if place == 0:
            if kind != "Transformer" or folder:
                raise _refused(source, f"its first module is {kind} in {folder or 'the folder'}")
        elif kind == "Pooling" and not poolings:
            with _understood(source, f"{folder}/config.json"):
                settings = _read_settings(source, f"{folder}/config.json")
                poolings = _poolings(source, settings)
                pools_prompt = bool(settings.get("include_prompt", True))
        elif kind in STEPS and poolings:
            steps.append((kind, folder))
        else:
            raise _refused(source, f"module {place} is {kind}")
    if not poolings:
        raise _refused(source, "it has no module Pooling")
    found = (_read_settings(source, name) for name in SENTENCE_SETTINGS)
    texts = next((settings for settings in found if settings), {})
    with _understood(source, PROMPTS):
        prompts = _read_settings(source, PROMPTS)
        named = prompts.get("default_prompt_name")
        prompt = str((prompts.get("prompts") or {}).get(named) or "") if named else ""
    return Recipe(
        poolings=poolings,
        steps=tuple(steps),
        prompt=prompt,
        pools_prompt=pools_prompt,
        lower=bool(texts.get("do_lower_case", False)),
    )


def _modules(file: Path) -> list[tuple[str, str]]:
    """The type and the folder of each module that `file`, a modules.json, names.

    Raises TrialFailure `unsupported` for a file that cannot be understood, and for a folder that is
    not inside the model's.
    """
    root, found = file.parent.resolve(), []
    with _understood_file(file):
        for module in json.loads(file.read_text(encoding="utf-8")):
            type_, folder = module["type"], module.get("path") or ""
            if not isinstance(type_, str) or not isinstance(folder, str):
                raise TypeError("type and path must be text")
            path = PurePosixPath(folder)
            inside = (file.parent / folder).resolve().is_relative_to(root)
            if path.is_absolute() or ".." in path.parts or not inside:
                raise ValueError(f"the path {folder!a} leads out of the folder")
            found.append((type_, folder))
    return found


def _poolings(source: ModelSource, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes of a module Pooling. Later versions of the library name them in one setting."""
    named = settings.get("pooling_mode")
    if named is None:
        asked = [mode for name, mode in POOLINGS.items() if settings.get(name, False)] or ["mean"]
    else:
        asked = [named] if isinstance(named, str) else list(named)
        asked = [OTHER_NAMES.get(name, name) for name in asked]
    unknown = [name for name in asked if name not in POOLINGS.values()]
    if unknown or not asked:
        raise _refused(source, f"it pools by {', '.join(map(str, unknown)) or 'nothing'}")
    return tuple(dict.fromkeys(asked))


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


def _unknown_modules(source: ModelSource) -> bool:
    """Whether it cannot be known if a hub model without modules.json in the cache has one."""
    if Path(source.path).is_dir() or _file(source, MODULES) is not None:
        return False
    from huggingface_hub import try_to_load_from_cache

    # None: never asked for. A file that the hub was found to lack leaves a mark in the cache.
    return try_to_load_from_cache(source.path, MODULES, revision=source.revision) is None


def _read_settings(source: ModelSource, name: str) -> Mapping[str, Any]:
    """The content of a JSON file of the model. Empty if there is none.

    Raises TrialFailure `unsupported` if that is no JSON object.
    """
    path = _file(source, name)
    if path is None:
        return {}
    with _understood_file(path):
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise TypeError("expected a JSON object")
    return settings


def _understood(source: ModelSource, name: str) -> contextlib.AbstractContextManager[None]:
    """`_understood_file` of a file of the model."""
    return _understood_file(Path(source.path) / name)


@contextlib.contextmanager
def _understood_file(path: Path) -> Iterator[None]:
    """Raise TrialFailure `unsupported`, which names the file, for an error in what it says."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TrialFailure("unsupported", f"{path} is malformed: {describe(error)}") from error


class Pooling(torch.nn.Module):
    """The vectors of texts, from hidden states (batch, width, size) and the mask (batch, width).

    Several `modes` join their vectors. Padding changes no vector, on whichever side it is: the
    first token is the first real one, and weights count real tokens. The `skipped` first tokens
    of each text are left out, except as the first token; weights count them.
    """

    def __init__(self, modes: Sequence[str], skipped: int = 0) -> None:
        super().__init__()
        self.modes, self.skipped = tuple(modes), skipped

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        first, count_so_far = mask, mask.cumsum(1)
        if self.skipped:
            mask = mask * (count_so_far > self.skipped).to(mask.dtype)
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
                weights = real * count_so_far.unsqueeze(-1).to(torch.float32)
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
        with _understood(source, f"{folder}/config.json"):
            settings = _read_settings(source, f"{folder}/config.json")
            self.linear = torch.nn.Linear(
                int(settings["in_features"]),
                int(settings["out_features"]),
                bool(settings.get("bias", True)),
            )
            self.activation = _activation(source, settings.get("activation_function"))
        self.linear.load_state_dict(
            {name.removeprefix("linear."): w for name, w in _weights(source, folder).items()}
        )
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
    kind = getattr(torch.nn, class_name, None)
    in_torch = module == "torch.nn" or module.startswith("torch.nn.modules.")
    if not in_torch or not isinstance(kind, type) or not issubclass(kind, torch.nn.Module):
        raise _refused(source, f"the activation {name} is not torch's")
    return kind()


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
        inner = [name for _, name in _modules(folder / MODULES) if name]
        found = (path for name in inner for path in (folder / name).glob("*"))
        return own | {path for path in found if path.is_file()}

    def encode(
        self, source: ModelSource, *, sets: Sequence[Mapping[str, str]], **options: Any
    ) -> ModelFacts:
        facts = super().encode(source, sets=sets, **options)
        return replace(facts, note=UNKNOWN_MODULES) if _unknown_modules(source) else facts

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
