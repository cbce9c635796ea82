"""The embedded demonstration: a real fine-tuned model and real questions.

See NOTICE.md beside this file for where they come from and under which licences.
"""

from __future__ import annotations

from pathlib import Path

NAME = "demo"
MODEL = Path(__file__).parent / "model"
DATASET = Path(__file__).parent / "data" / "xquad-en-dev.json"
CALIBRATION = Path(__file__).parent / "data" / "xquad-en-calibration.json"
