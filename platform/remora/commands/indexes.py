"""`remora data index`, and the indexes that other verbs need first: built once, with a progress bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from remora import catalog
from remora.commands.data_options import DataIndexOptions
from remora.commands.options import Workplace
from remora.commands.saying import say
from remora.data.index import Dataset
from remora.data.index_builder import Indexed, Spread
from remora.data.mixture import open_entry, with_known
from remora.data.sources import Shard
from remora.errors import several
from remora.reporting.bars import reading
from remora.runs import read_variants, resolve_stages
from remora.spec import MixtureEntry, Variant
from remora.spec.paths import YAMLS


def index(options: DataIndexOptions, console: Console) -> None:
    """Build the index of a dataset, or of all that a variant or a space reads, and print their sample counts."""
    if str(options.target).endswith(YAMLS):
        entries = entries_of(read_variants(options.target, options.settings))
    elif options.target in catalog.entries("datasets"):
        entries = [MixtureEntry(dataset=options.target)]
    else:
        entries = [MixtureEntry(path=options.target, images=options.images)]
    found = prepare(entries, options.place, console)
    if options.json:
        say(json.dumps([_as_json(entry, dataset) for entry, dataset in found], indent=1))
        return
    for entry, dataset in found:
        console.print(f"{entry.dataset or entry.path}: {several(len(dataset), 'sample')}", highlight=False)
        console.print(f"  {dataset.folder}", highlight=False)


def _as_json(entry: MixtureEntry, dataset: Dataset) -> dict[str, object]:
    of = {"records": dataset.records, "left_out": dataset.skipped, "problems": dict(dataset.counts)}
    return {"dataset": entry.dataset or entry.path, "samples": len(dataset), **of, "folder": str(dataset.folder)}


def say_skipped(entry: MixtureEntry, dataset: Dataset, console: Console) -> None:
    """Print how many records a mixture leaves out, by kind."""
    kinds = ", ".join(f"{dataset.counts[k]:,} {k}" for k in with_known(entry).skip if dataset.counts[k])
    of = f"{dataset.skipped:,} of {dataset.records:,} records left out"
    console.print(f"{entry.dataset or entry.path}: {of} ({kinds})", markup=False, highlight=False)


def entries_of(variants: Iterable[Variant]) -> list[MixtureEntry]:
    """Every mixture entry that the variants' stages read, once."""
    stages = [stage for v in variants for stage in resolve_stages(v)]
    others = [e for stage in stages if stage.validation for e in stage.validation.mixture]
    return list(dict.fromkeys([*(e for stage in stages for e in stage.mixture), *others]))


def prepare(
    entries: Iterable[MixtureEntry],
    place: Workplace,
    console: Console,
    opening: Callable[..., Dataset] = open_entry,
) -> list[tuple[MixtureEntry, Dataset]]:
    """Every entry with its dataset. Missing and outdated indexes are built, with a progress bar for each.

    With --address or RAY_ADDRESS Ray Data builds them on the cluster, otherwise this machine's cores do.
    """
    found = []
    with reading(console, "indexing") as hear:
        for entry in entries:
            told = partial(hear, Path(entry.dataset or str(entry.path)).name)
            dataset = opening(entry, place.runs / "data", _spread(place), told)
            if dataset.skipped:
                say_skipped(entry, dataset, console)
            found.append((entry, dataset))
    return found


def _spread(place: Workplace) -> Spread | None:
    if place.local or not place.ray_cluster:
        return None

    def on_cluster(work: Callable[[Shard], Indexed], shards: Iterable[Shard]) -> Iterator[Indexed]:
        # Joined only when there is something to build.
        from remora.cluster.ray_data import over_ray
        from remora.commands.run import session

        with session(place):
            yield from over_ray(work, shards, place.runs / "logs")

    return on_cluster
