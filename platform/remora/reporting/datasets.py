"""Output about a catalog dataset: its entry, its layout on disk, the results of a check."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from remora.catalog import DatasetEntry
from remora.data.check import DatasetReport
from remora.data.conversation import short
from remora.data.layout import Place
from remora.errors import several
from remora.reporting.columns import print_named

UNREAD_SHOWN = 12
"""Unused keys listed at most."""


def print_dataset(console: Console, name: str, entry: DatasetEntry, data: Path) -> None:
    """Print a dataset's entry, and the commands that put it below `data`, ready to copy."""
    console.print(Text(name, "bold"), highlight=False)
    facts = {
        "": entry.source,
        "records": _records(entry),
        "download": entry.download,
        "licence": entry.licence,
        "known": entry.known,
        "left out": ", ".join(entry.skip),
        "sha256": entry.sha256,
        "file": str(data / entry.path),
        "pictures": str(data / entry.images),
    }
    for key, value in facts.items():
        if value:
            console.print(Text.assemble((f"{key}: " if key else "", "dim"), value.strip()), highlight=False)
    if entry.folders:
        table = Table("folder", "records", "files", box=None, pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for folder in entry.folders:
            table.add_row(folder.path, _count(folder.records), _count(folder.pictures))
        console.print(table)
    console.print("To put it there:")
    for step in entry.steps(data):
        console.print(f"  {step}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Then: remora data check {name}", highlight=False)


def _records(entry: DatasetEntry) -> str | None:
    if entry.records is None:
        return f"about {entry.about:,}" if entry.about else None
    return f"{entry.records:,}" + (f", {entry.text_only:,} of them without a picture" if entry.text_only else "")


def _count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def print_layout(console: Console, places: Iterable[Place]) -> None:
    """Print each file and folder with its state, as it is checked."""
    for place in places:
        console.print(Text(f"{place.path}: {place.found}", "" if place.good else "bold red"), highlight=False)


def print_checked(console: Console, report: DatasetReport) -> None:
    """Print the results of a check, by kind, with examples."""
    counts = (
        f"{several(report.records, 'record')} ({report.text_only:,} text only), {several(report.pictures, 'picture')}"
    )
    print_named(console, report.location, f": {counts}")
    if report.unread:
        names = ", ".join(f"{short(name, 40)} {n:,}" for name, n in report.unread.most_common(UNREAD_SHOWN))
        more = f", and {len(report.unread) - UNREAD_SHOWN} more" if len(report.unread) > UNREAD_SHOWN else ""
        console.print(f"  nothing reads: {names}{more}", markup=False, highlight=False)
    for kind, count in report.counts.most_common():
        how = "skipped" if kind in report.skip else "dropped" if kind in report.dropped else "noted"
        lived = f" ({how})" if kind in report.tolerated else ""
        console.print(f"  {kind}: {count:,}{lived}", highlight=False)
        for example in report.examples[kind]:
            console.print(f"    {example}", markup=False, highlight=False)
