"""A benchmark of one's own: which colour is a picture?"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

QUESTIONS = "title: colours\nquestions: colours.jsonl\nimages: .\nmetric: multiple-choice\nmax_new_tokens: 8\n"


def write_colours(root: Path) -> Path:
    """Four questions with their pictures, and `colours.yaml`, which is returned."""
    (root / "colours.yaml").write_text(QUESTIONS)
    colours = ["red", "green", "blue", "white"]
    lines = []
    for i, colour in enumerate(colours):
        Image.new("RGB", (32, 32), colour).save(root / f"{colour}.png")
        record = {"question_id": i, "image": f"{colour}.png", "text": "Which?", "answer": colour, "category": "c"}
        lines.append(json.dumps(record | {"choices": colours}) + "\n")
    (root / "colours.jsonl").write_text("".join(lines))
    return root / "colours.yaml"
