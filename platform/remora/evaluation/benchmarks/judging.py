"""What judges are told, and what a chat model is sent: judging.yaml holds the benchmarks' own texts."""

from __future__ import annotations

from pathlib import Path

import yaml

TEXTS: dict[str, str] = yaml.safe_load(Path(__file__).with_name("judging.yaml").read_text(encoding="utf-8"))


def message(role: str, content: str) -> dict[str, str]:
    """One message of a chat completion."""
    return {"role": role, "content": content}
