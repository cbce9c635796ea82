"""The models that the benchmarks use besides the demo, and the tasks that judge them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from autotune import demo
from autotune.tasks.base import ANY_COLUMNS, SINGLE_LABEL, Columns, Dataset, Row, Texts, TextTask
from autotune.tasks.qa import QuestionAnswering

QUESTIONS = QuestionAnswering()
OUTPUTS = {
    "AutoModelForQuestionAnswering": {"start_logits": "batch width", "end_logits": "batch width"},
    "AutoModelForSequenceClassification": {"logits": "batch"},
    "AutoModelForTokenClassification": {"logits": "batch width"},
}


class Agreement(TextTask):
    """A task for models that have none in autotune: judged by the place of the largest logit."""

    name: ClassVar[str] = "agreement"
    metrics = ("agreement",)

    def __init__(self, head: str) -> None:
        super().__init__()
        self.head = head  # type: ignore[misc]
        self.outputs = OUTPUTS[head]  # type: ignore[misc]

    def for_model(self, labels: Sequence[str], problem: str = SINGLE_LABEL) -> Self:
        return self

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> Dataset:
        lines = Path(dataset).read_text().split("\n")
        return Dataset(task=self, rows=[json.loads(line) for line in lines if line], columns={})

    def texts(self, rows: Sequence[Row]) -> Texts:
        text = [row.get("sentence") or " ".join(row["tokens"]) for row in rows]
        return Texts(text=text, text_pair=None, windowed=False)

    def decode(self, rows: Any, features: Any, outputs: Any) -> list[Any]:
        return [int(i) for array in outputs.values() for i in np.atleast_2d(array).argmax(-1)]

    def score(
        self, rows: Any, predictions: Sequence[Any], reference: Sequence[Any] | None = None
    ) -> dict[str, float]:
        return {"agreement": 100 * self.agreement(predictions, reference or predictions)}

    def write(self, rows: Sequence[Row], path: Path) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class RandomAgreement(Agreement):
    """The demo's questions through a question-answering head that was never trained."""

    def load(self, dataset: str, split: str | None, columns: Columns = ANY_COLUMNS) -> Dataset:
        return replace(QUESTIONS.load(dataset, split), task=self)

    def texts(self, rows: Sequence[Row]) -> Texts:
        return QUESTIONS.texts(rows)

    def decode(self, rows: Any, features: Any, outputs: Any) -> list[Any]:
        ends = np.cumsum(features.lengths)[:-1]
        return [int(part.argmax()) for array in outputs.values() for part in np.split(array, ends)]


def random_bert_base(folder: Path) -> str:
    """Write a randomly initialised BERT-base with the demo's tokenizer; return its folder.

    Runs in a process of its own, because this process must not import torch.
    """
    code = (
        "import sys, torch, transformers as t; torch.manual_seed(0); "
        "t.BertForQuestionAnswering(t.BertConfig()).save_pretrained(sys.argv[2]); "
        "t.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(demo.MODEL), str(folder)], check=True)
    return str(folder)
