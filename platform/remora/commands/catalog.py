"""`remora catalog`: the catalog's entries. A kind's reader is loaded on demand."""

from __future__ import annotations

import json

import yaml
from rich.console import Console

from remora import catalog as known
from remora.commands.options import CatalogOptions
from remora.commands.saying import say
from remora.errors import UnknownName, nearest
from remora.reporting.columns import literal, print_named


def catalog(options: CatalogOptions) -> None:
    """List the kinds, a kind's entries, or one entry; `check` says which parts fit together."""
    console = literal(soft_wrap=True)
    if options.kind == "check":
        check(options, console)
        return
    if options.json:
        say(json.dumps(_dumped(options), indent=1))
        return
    if options.kind is None:
        for kind in known.KINDS:
            rules = known.PAPERS if kind == "benchmarks" else ()
            print_named(console, kind, f": {', '.join((*rules, *known.entries(kind)))}")
        return
    if options.kind == "benchmarks" and options.name in (None, *known.PAPERS):
        from remora.reporting.known import print_benchmarks

        print_benchmarks(console, options.name, options.runs / "data" / "eval")
        if options.name:
            return
    entries = known.entries(options.kind)
    if options.name is None and options.kind == "scores":
        from remora.reporting.scores import scores_lines

        console.print(scores_lines(), markup=False, highlight=False)
    elif options.name is None:
        for name, entry in entries.items():
            print_named(console, name, f"  {getattr(entry, 'source', '')}")
    elif options.kind == "datasets":
        from remora.reporting.datasets import print_dataset
        from remora.runs import Store

        print_dataset(literal(), options.name, known.dataset(options.name), Store(options.runs).data)
    else:
        if options.kind == "benchmarks" and options.name not in entries:
            names = [*known.PAPERS, *entries]
            raise UnknownName(
                f"unknown benchmark {options.name!r}{nearest(options.name, names)}; known: {', '.join(names)}"
            )
        dumped = {options.name: known.GETTERS[options.kind](options.name).model_dump(mode="json", exclude_none=True)}
        console.print(yaml.safe_dump(dumped, sort_keys=False, width=110), end="", markup=False, highlight=False)


def _dumped(options: CatalogOptions) -> dict[str, object]:
    """The names of every kind, or the entries of one; a published benchmark has its name only."""
    if options.kind is None:
        return {kind: list(known.entries(kind)) for kind in known.KINDS}
    published = known.PAPERS if options.kind == "benchmarks" else ()
    if options.name in published:
        return {str(options.name): None}
    if options.name is not None:
        return {options.name: known.GETTERS[options.kind](options.name).model_dump(mode="json", exclude_none=True)}
    own = {
        name: entry.model_dump(mode="json", exclude_none=True) for name, entry in known.entries(options.kind).items()
    }
    return dict.fromkeys(published) | own


def check(options: CatalogOptions, console: Console) -> None:
    """Check every encoder x connector x llm: the embeddings per picture, or why the parts do not fit."""
    from remora.planning import compositions
    from remora.reporting.known import print_compositions

    found = compositions()
    if options.json:
        rows = [
            {"vision": v, "connector": c, "llm": m, "embeddings": n, "why_not": w}
            for (v, c, m), (n, w) in found.items()
        ]
        say(json.dumps(rows, indent=1))
        return
    print_compositions(console, found)
