"""docs/serving.md and the pages that go on from it, as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = "\n".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("serving", "canary", "serving-speed"))
FENCED = r"(?ms)^```(\w+)\n(.*?)^```$"


def examples() -> list[tuple[str, str]]:
    """Its fenced blocks, each with its language."""
    return re.findall(FENCED, PAGE)


def commands() -> list[str]:
    """The lines of its indented blocks, without what they say behind a #."""
    return [line.partition("#")[0].strip() for line in re.findall(r"(?m)^    (.+)$", re.sub(FENCED, "", PAGE))]


def table(head: str) -> list[list[str]]:
    """Cells of the rows of the table that has this first line."""
    rows = PAGE.split(f"{head}\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
