"""`remora data check`: check a dataset, or everything a variant's or a space's stages read, rendered as in training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.commands.data_options import DataCheckOptions
from remora.commands.saying import say
from remora.data.check import TurnsCheck, check_dataset
from remora.data.layout import count_differences, layout
from remora.data.locations import absolute
from remora.data.mixture import locate, with_known
from remora.data.sources import picture_folder
from remora.errors import DataError, MissingDataset, several
from remora.reporting.datasets import print_checked, print_layout
from remora.runs import Store, path, preflight, read_variants, resolve_stages
from remora.spec import MixtureEntry, Stage, Variant
from remora.spec.paths import YAMLS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class DatasetToCheck:
    """A dataset to check, and how a stage reads it, if one does."""

    location: str
    images: str
    hint: str
    """What to do if it is missing."""
    judge: TurnsCheck | None = None
    skip: tuple[str, ...] = ()
    max_skipped: float = 0.0
    """The share of records that a stage may leave out, including those that are too long."""


def check(options: DataCheckOptions, console: Console, progress: Callable[[str, int, int], None]) -> None:
    """Read everything and report every problem.

    Raises:
        DataError: a record would stop a training run or teach nothing.
    """
    named = catalog.dataset(options.target) if options.target in catalog.entries("datasets") else None
    if named:
        print_layout(console, layout(named, Store(options.runs).data))
    reports = []
    for t in _targets(options, console):
        try:
            told = partial(progress, t.location)
            report = check_dataset(t.location, t.images, t.judge, t.skip, told)
            report.leave_out(t.max_skipped)
            reports.append(report)
        except MissingDataset as e:
            raise MissingDataset(f"{e}{t.hint}") from None
    for report in reports:
        print_checked(console, report)
        for line in count_differences(named, report.records, report.text_only, report.folders) if named else ():
            console.print(f"  {line}", style="bold red", highlight=False)
    if options.json:
        say(json.dumps([r.as_json() for r in reports], indent=1))
    if fatal := sum(r.fatal for r in reports):
        of = f"{sum(r.refused for r in reports):,} of {several(sum(r.records for r in reports), 'record')}"
        raise DataError(
            f"{several(fatal, 'problem')} in {of} would stop a training run or teach nothing; mend or remove them"
        )
    if options.target.endswith(YAMLS):
        _check_stages(options, console)
    console.print("nothing that would stop a training run")


def _check_stages(options: DataCheckOptions, console: Console) -> None:
    """Print each stage's samples and steps.

    Raises:
        RemoraError: a stage could not run, or would learn nothing.
    """
    known = preflight(read_variants(options.target, options.settings), Store(options.runs))
    for run in known.runs.values():
        steps, samples = known.lengths[run.id]
        console.print(
            f"stage {run.stage.name}: {several(samples, 'sample')} in {several(steps, 'step')}", highlight=False
        )
    for note in known.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def _targets(options: DataCheckOptions, console: Console) -> Iterator[DatasetToCheck]:
    if options.target in catalog.entries("datasets"):
        entry = with_known(MixtureEntry(dataset=options.target))
        yield DatasetToCheck(*locate(entry, Store(options.runs).data), skip=entry.skip)
    elif options.target.endswith(YAMLS):
        yield from _read_by_stages(options, console)
    else:
        location = absolute(options.target)
        images = absolute(options.images) if options.images else picture_folder(location)
        yield DatasetToCheck(location, images, "; give the path of a dataset")


def _read_by_stages(options: DataCheckOptions, console: Console) -> Iterator[DatasetToCheck]:
    """The datasets the stages read; one that several read the same way is checked once."""
    store = Store(options.runs)
    tokenizers: dict[str, PreTrainedTokenizerBase | None] = {}
    seen = set()
    for variant in read_variants(options.target, options.settings):
        vision, connector, llm = (
            catalog.vision(variant.vision),
            catalog.connector(variant.connector),
            catalog.llm(variant.llm),
        )
        embeddings = check_composition(vision, connector, llm)
        if variant.llm not in tokenizers:
            tokenizers[variant.llm] = None
            if folder := _tokenizer_folder(variant, store):
                from remora.model.llm import load_tokenizer

                tokenizers[variant.llm] = load_tokenizer(folder)
            else:
                console.print(f"lengths are not checked: {variant.llm} has no tokenizer before its first stage")
        tokenizer = tokenizers[variant.llm]
        for stage in resolve_stages(variant):
            allowed = stage.length(llm.context), stage.count_pictures, stage.whole(llm.context)
            rendered = (variant.llm, stage.template, embeddings, *allowed) if tokenizer else ()
            judge = _judge(stage, tokenizer, embeddings, llm.context) if tokenizer else None
            for entry in stage.mixture:
                place = locate(entry, store.data)
                if (key := (*place[:2], entry.skip, entry.max_skipped, *rendered)) not in seen:
                    seen.add(key)
                    yield DatasetToCheck(*place, judge, entry.skip, entry.max_skipped)


def _judge(stage: Stage, tokenizer: PreTrainedTokenizerBase, embeddings: int, context: int) -> TurnsCheck:
    from remora.reading.prompt import Prompter
    from remora.reading.truncation import StagePrompter

    return StagePrompter(stage, Prompter(catalog.template(stage.template), tokenizer, embeddings), context).problems


def _tokenizer_folder(variant: Variant, store: Store) -> Path | None:
    """Where a variant's tokenizer is; None until the stage that makes it has run, or if its data cannot be read."""
    if catalog.llm(variant.llm).loader == "scratch":
        try:
            return store.tokenizer_folder(path(variant, store.data)[0])
        except DataError:  # reported where the dataset itself is checked
            return None
    from remora.model.llm import pretrained_folder

    return pretrained_folder(variant.llm, catalog.llm(variant.llm), store.cache / "llm")
