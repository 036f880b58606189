"""Tables that fit the width they are printed in: columns give way in order of weight, figures are never cut."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDE = 200
"""Columns of a file or a pipe, which have no width of their own: what fits no terminal is whole there."""


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal; COLUMNS decides where there is none, or nothing does."""
    there = (sys.stderr if stderr else sys.stdout).isatty() or os.environ.get("COLUMNS")
    return literal(stderr=stderr, width=None if there else WIDE)


def literal(stderr: bool = False, soft_wrap: bool = False, width: int | None = None) -> Console:
    """A console that prints text as it is: a path, a name or an answer may hold `[red]`, `[/]` or `:cat:`."""
    return Console(stderr=stderr, soft_wrap=soft_wrap, width=width, markup=False, emoji=False)


def silent() -> Console:
    """A console for callers who want the result only."""
    return Console(quiet=True, file=io.StringIO())


def print_named(console: Console, name: str, rest: str) -> None:
    """A line whose first words stand out."""
    console.print(Text.assemble((name, "bold"), rest), highlight=False)


class Fitting:
    """The first of some ways to draw a table that fits; the last one whatever it is.

    `draw` gets the steps taken so far: names of columns that are left out, or of other ways to save width.
    """

    def __init__(self, draw: Callable[[frozenset[str]], Table], steps: Sequence[str]) -> None:
        self.draw, self.steps = draw, steps

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for taken in range(len(self.steps) + 1):
            table = self.draw(frozenset(self.steps[:taken]))
            if _width(console, options, table) <= options.max_width:
                break
        yield table


class Blocks:
    """As many columns beside each other as fit, the rest in tables below. `draw` gets the columns of one of them."""

    def __init__(self, draw: Callable[[Sequence[str]], Table], columns: Sequence[str]) -> None:
        self.draw, self.columns = draw, columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left, width = list(self.columns), options.max_width
        while left:
            fits = (n for n in range(len(left), 1, -1) if _width(console, options, self.draw(left[:n])) <= width)
            count = next(fits, 1)
            yield self.draw(left[:count])
            del left[:count]


def _width(console: Console, options: ConsoleOptions, table: Table) -> int:
    """Columns that a table takes if it may have as many as it likes."""
    return Measurement.get(console, options.update(width=10_000), table).maximum


def digits(*differences: float, most: int = 6) -> int:
    """Decimals that show the smallest of some differences with two digits; those that are 0 ask for none."""
    smallest = min((abs(d) for d in differences if d and math.isfinite(d)), default=1.0)
    return min(most, max(2, 1 - math.floor(math.log10(smallest))))
