"""The highlighted lines of `remora demo`."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

from remora.pipeline.search.records import ResultRecord
from remora.reporting.results import choice_line


def print_heading(console: Console, title: str) -> None:
    console.rule(Text(title, "bold"))


def print_champion(console: Console, result: ResultRecord, titles: Mapping[str, str]) -> None:
    """What was chosen, how far it can be told from the others, and what it scores where it was not chosen.

    `result` is what `pipeline.search.search.Result.as_json` gives.
    """
    choice, version, alias = result["choice"], result["version"] or "none yet", f"{result['register_as']}@champion"
    about = f"registered as {alias}, version {version}." if not result["refused"] else f"{alias} was not moved."
    console.print(Text.assemble("Champion: ", (result["champion"], "bold"), f", {about}"))
    if result["refused"]:
        console.print(result["refused"], highlight=False, markup=False)
    (champion,) = (v for v in result["variants"] if v["name"] == result["champion"])
    figures = {titles[name]: f"{s['accuracy']:.3f}" for name, s in champion["benchmarks"].items()}
    chosen_on = titles[choice["benchmark"]]
    console.print(f"Chosen on {chosen_on}, {figures.pop(chosen_on)}; {choice_line(choice)}.", highlight=False)
    if figures:
        console.print(f"Reported on {', '.join(f'{title}, {f}' for title, f in figures.items())}.", highlight=False)


def print_answer(console: Console, image: str, question: str, answer: str, expected: str) -> None:
    """Print one question to the endpoint, its answer and the expected one."""
    asked = f"Picture   {image}\nQuestion  {question}\nAnswer    "
    console.print(Text.assemble(asked, (answer, "bold")), highlight=False)
    console.print(f"Expected  {expected}", highlight=False)
