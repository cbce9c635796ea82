"""The demo: a small fine-tuned question-answering model and questions from XQuAD.

NOTICE.md in this folder states their sources and licences.
"""

from __future__ import annotations

from pathlib import Path

NAME = "demo"
MODEL = Path(__file__).parent / "model"
DATASET = Path(__file__).parent / "data" / "xquad-en-dev.json"
CALIBRATION = Path(__file__).parent / "data" / "xquad-en-calibration.json"
