"""Checks before a run, used by plan, train, search and data check.

What follows from the spec only (names, parts, templates, adapters) is checked by `tuning_check.check_stages`. Here are
the questions that need the data: how many steps a stage has and at which rates, whether its mixture has pictures, and,
where the tokenizer is there, how many of its samples fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.data.held_out import opened, opened_held_out
from remora.data.index import Dataset
from remora.data.mixture import Readable
from remora.data.order import mixture_order, stage_length
from remora.errors import SpecError
from remora.files import is_published
from remora.runs.graph import StageRun, paths, union
from remora.runs.store import Store
from remora.spec import MixtureEntry, Stage, Variant
from remora.training.environment import differences, environment
from remora.training.schedule import check_schedule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from remora.reading.truncation import StagePrompter


@dataclass(frozen=True)
class Preflight:
    """What is known about variants' stage runs before they run."""

    paths: Mapping[str, tuple[StageRun, ...]]
    """Variant name -> its stage runs."""
    lengths: Mapping[str, tuple[int, int]]
    """Stage run id -> (steps, samples)."""
    notes: tuple[str, ...]
    """Notes that do not stop a run: a rate that never reaches its peak, samples that are cut."""

    @property
    def runs(self) -> dict[str, StageRun]:
        """Every stage run by its id, once, parents first."""
        return union(self.paths.values())


def preflight(variants: Sequence[Variant], store: Store, tokenizers: bool = True) -> Preflight:
    """Check all stages of the variants. Reads their datasets' indexes, and builds them if necessary.

    With `tokenizers`, loads available tokenizers (and torch) and tries samples of every mixture; a model on the hub may
    be downloaded, as in training.

    Raises:
        RemoraError: a stage could not run or would learn nothing; one line with the stage's name.
    """
    found = paths(variants, store.data)
    lengths: dict[str, tuple[int, int]] = {}
    notes: list[str] = []
    loaded: dict[Path, PreTrainedTokenizerBase] = {}
    reused: list[StageRun] = []
    for run in union(found.values()).values():
        datasets, held = opened(run.stage, run.datasets), opened_held_out(run.stage, run.datasets, run.others)
        there = is_published(store.folder(run))  # trained stages were checked then
        lengths[run.id], more = outlook(run.stage, datasets, there)
        notes += more
        if held and "vision" not in run.stage.tune.present:
            _check_text(run.stage, held.mixture, held.datasets)
        if held and held.seen:
            notes.append(
                f"stage {run.stage.name!r}: {held.seen:,} samples of validate.mixture are left out of it, because the "
                f"stage trains on them as well; held out are {held.samples:,}"
            )
        if there:
            reused.append(run)
            continue
        if tokenizers:
            notes += _check_lengths(run, datasets, store, loaded)
    notes += _trained_otherwise(reused, store)
    return Preflight(found, lengths, tuple(dict.fromkeys(notes)))


def _trained_otherwise(reused: Sequence[StageRun], store: Store) -> list[str]:
    """A note for each way in which published stage runs were trained on something else than what is here."""
    here, names = environment(), dict[str, list[str]]()
    for run in reused:
        for then in store.trained_on(run.name):
            if differ := differences(then, here):
                names.setdefault("; ".join(differ), []).append(run.name)
    said = "reused as they are, trained with other versions"
    return [f"{said}: {', '.join(runs)} ({how})" for how, runs in names.items()]


def outlook(stage: Stage, datasets: Sequence[Readable], there: bool = False) -> tuple[tuple[int, int], list[str]]:
    """((steps, samples), notes) of a stage; without notes if it is trained already (`there`).

    For a dataset that is not downloaded, only the size in the catalog is known.

    Raises:
        SpecError: it would have no step, learn nothing, or give pictures to a text-only stage.
    """
    length = stage_length(stage, mixture_order(stage.mixture, [len(d) for d in datasets], 0).epoch_size)
    if there:
        return length, []
    opened = [d for d in datasets if isinstance(d, Dataset)]
    notes = _check_pictures(stage, opened) if len(opened) == len(datasets) else []
    return length, notes + list(filter(None, [check_schedule(stage, length[0])]))


def _check_pictures(stage: Stage, datasets: Sequence[Dataset]) -> list[str]:
    """Raises:
    SpecError: a text-only stage gets pictures, or a stage that trains only on pictures gets none.
    """
    if "vision" not in stage.tune.present:
        _check_text(stage, stage.mixture, datasets)
        return []
    if any(sample.images for dataset in datasets for sample in dataset):
        return []
    names = ", ".join(map(_name, stage.mixture))
    if "llm" not in stage.tune.trained:
        raise SpecError(
            f"stage {stage.name!r} trains {' and '.join(stage.tune.trained)}, which learn only from pictures, and no "
            f"record of {names} shows one; give it a mixture with pictures"
        )
    return [f"stage {stage.name!r}: no record of {names} shows a picture, so it trains only the language model"]


def _check_text(stage: Stage, mixture: Sequence[MixtureEntry], datasets: Sequence[Dataset]) -> None:
    for entry, dataset in zip(mixture, datasets, strict=True):
        for i, sample in enumerate(dataset):
            if sample.images:
                where = f"{dataset.where(dataset.number(i))} of {_name(entry)}"
                raise SpecError(
                    f"stage {stage.name!r} reads only text (vision: absent), and {where} shows a picture; give it "
                    f"a mixture of text (overrides: {{{stage.name}: {{mixture: […]}}}}), or keep the recipe's own"
                )


def _check_lengths(
    run: StageRun, datasets: Sequence[Dataset], store: Store, loaded: dict[Path, PreTrainedTokenizerBase]
) -> list[str]:
    prompter = prompter_of(run, store, loaded)
    if prompter is None:
        return []  # the stage checks before its first step
    from remora.reading.truncation import check_lengths

    found = (check_lengths(e, d, prompter) for e, d in zip(run.stage.mixture, datasets, strict=True))
    return [note for note in found if note]


def prompter_of(run: StageRun, store: Store, loaded: dict[Path, PreTrainedTokenizerBase]) -> StagePrompter | None:
    """The prompter of a stage run; None until a stage has made its tokenizer.

    Raises:
        SpecError: the tokenizer lacks something that the stage's template needs.
    """
    parts, stage = dict(run.parts), run.stage
    model = catalog.llm(parts["llm"])
    folder = store.tokenizer_folder(run)
    if folder is None:
        return None
    # These import torch (4 s), so only if there is a tokenizer.
    from remora.model.llm import load_tokenizer
    from remora.reading.prompt import Prompter
    from remora.reading.truncation import StagePrompter

    if folder not in loaded:
        loaded[folder] = load_tokenizer(folder)
    tokens = 0
    if "vision" in stage.tune.present:
        tokens = check_composition(catalog.vision(parts["vision"]), catalog.connector(parts["connector"]), model)
    try:
        prompter = Prompter(catalog.template(stage.template), loaded[folder], tokens)
    except SpecError as e:
        raise SpecError(f"stage {stage.name!r}: template {stage.template!r}: {e}") from None
    return StagePrompter(stage, prompter, model.context)


def _name(entry: MixtureEntry) -> str:
    return entry.dataset or str(entry.path)
