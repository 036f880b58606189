"""Answer files of JSON lines, and figures as the scripts print them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def printed(metrics: Mapping[str, float]) -> dict[str, str]:
    """To two digits."""
    return {name: f"{value:.2f}" for name, value in metrics.items()}
