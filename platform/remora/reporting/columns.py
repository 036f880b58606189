"""Tables that fit the terminal's width: less important columns are dropped first, figures are never cut."""

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
"""Width assumed for a file or a pipe: wide enough for whole tables."""


def console(stderr: bool = False) -> Console:
    """A console as wide as the terminal; without one, as wide as COLUMNS or else `WIDE`."""
    there = (sys.stderr if stderr else sys.stdout).isatty() or os.environ.get("COLUMNS")
    return literal(stderr=stderr, width=None if there else WIDE)


def literal(stderr: bool = False, soft_wrap: bool = False, width: int | None = None) -> Console:
    """A console that prints text unchanged: a path, a name or an answer may contain `[red]`, `[/]` or `:cat:`."""
    return _Plain(stderr=stderr, soft_wrap=soft_wrap, width=width, markup=False, emoji=False)


class _Plain(Console):
    def on_broken_pipe(self) -> None:
        """A reader that stops early (`| head -1`) is no error: exit with 0, where rich exits with 1."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(0) from None


def silent() -> Console:
    """A console that prints nothing, for callers who only want the result."""
    return Console(quiet=True, file=io.StringIO())


def print_named(console: Console, name: str, rest: str) -> None:
    """Print a line with a highlighted name."""
    console.print(Text.assemble((name, "bold"), rest), highlight=False)


class Fitting:
    """The first of some ways to draw a table that fits; else the last one.

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
    """As many columns side by side as fit, the rest in tables below. `draw` gets the columns of one table."""

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
    """The width of a table without a limit, in columns."""
    return Measurement.get(console, options.update(width=10_000), table).maximum


def digits(*differences: float, most: int = 6) -> int:
    """Decimals that show the smallest non-zero difference with two digits."""
    smallest = min((abs(d) for d in differences if d and math.isfinite(d)), default=1.0)
    return min(most, max(2, 1 - math.floor(math.log10(smallest))))
