"""The highlighted lines of `remora demo`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text


def print_heading(console: Console, title: str) -> None:
    console.rule(Text(title, "bold"))


def print_champion(console: Console, result: Mapping[str, Any], chosen_on: str) -> None:
    """`result` is what `cluster.search.Result.as_json` gives."""
    version = result["version"] or "none yet"
    about = f", chosen on {chosen_on}, registered as {result['register_as']}@champion, version {version}."
    console.print(Text.assemble("Champion: ", (result["champion"], "bold"), about))


def print_answer(console: Console, image: str, question: str, answer: str, expected: str) -> None:
    """Print one question to the endpoint, its answer and the expected one."""
    asked = f"Picture   {image}\nQuestion  {question}\nAnswer    "
    console.print(Text.assemble(asked, (answer, "bold")), highlight=False)
    console.print(f"Expected  {expected}", highlight=False)
