"""Everything about a run that can be known before it: one place, asked by plan, train, search and data check.

What a spec alone tells (names, parts, templates, adapters) `fit.check_stages` refuses, which `path` calls. Here are the
questions that need the data: how many steps a stage has and at which rates, whether its mixture has pictures, and,
where the tokenizer is there, how many of its samples fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.data.index import Dataset
from remora.data.mixture import Readable
from remora.data.order import mixture_order, stage_length
from remora.errors import SpecError
from remora.files import is_published
from remora.runs.graph import StageRun, paths, union
from remora.runs.store import Store
from remora.spec import MixtureEntry, Stage, Variant
from remora.training.schedule import check_schedule

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from remora.reading.truncation import StagePrompter


@dataclass(frozen=True)
class Preflight:
    """What is known of some variants' stage runs before they run."""

    paths: Mapping[str, tuple[StageRun, ...]]
    """Variant name -> its stage runs."""
    lengths: Mapping[str, tuple[int, int]]
    """Stage run id -> its steps, and the samples that they read."""
    notes: tuple[str, ...]
    """What no run stops at and people should know: a rate that never comes to its peak, samples that are cut."""

    @property
    def runs(self) -> dict[str, StageRun]:
        """Every stage run by its id, once, parents first."""
        return union(self.paths.values())


def preflight(variants: Sequence[Variant], store: Store, tokenizers: bool = True) -> Preflight:
    """Look at all that the variants' stages will meet. Reads their datasets' indexes, which are built if need be.

    `tokenizers` loads those that are there (torch with them) and tries samples of every mixture; a model that is on the
    hub may be downloaded for it, as training would.

    Raises:
        RemoraError: what would stop a stage, or leave it without anything to learn; one line that names the stage.
    """
    found = paths(variants, store.data)
    lengths: dict[str, tuple[int, int]] = {}
    notes: list[str] = []
    loaded: dict[Path, PreTrainedTokenizerBase] = {}
    for run in union(found.values()).values():
        datasets = [Dataset(d, e.skip) for d, e in zip(run.datasets, run.stage.mixture, strict=True)]
        there = is_published(store.folder(run))  # what was trained was looked at then
        lengths[run.id], more = outlook(run.stage, datasets, there)
        notes += more
        if there:
            continue
        if tokenizers:
            notes += _check_lengths(run, datasets, store, loaded)
    return Preflight(found, lengths, tuple(dict.fromkeys(notes)))


def outlook(stage: Stage, datasets: Sequence[Readable], there: bool = False) -> tuple[tuple[int, int], list[str]]:
    """(steps, samples) of a stage, and what is worth knowing of it; of one that is trained (`there`) only the former.

    Of a dataset that is not here the catalog knows its size alone.

    Raises:
        SpecError: it would have no step, learn nothing, or show pictures to a stage that reads text.
    """
    length = stage_length(stage, mixture_order(stage.mixture, [len(d) for d in datasets], 0).epoch_size)
    if there:
        return length, []
    opened = [d for d in datasets if isinstance(d, Dataset)]
    notes = _check_pictures(stage, opened) if len(opened) == len(datasets) else []
    return length, notes + list(filter(None, [check_schedule(stage, length[0])]))


def _check_pictures(stage: Stage, datasets: Sequence[Dataset]) -> list[str]:
    """Raises:
    SpecError: a text-only stage is given pictures, or one that learns from pictures alone is given none.
    """
    if "vision" not in stage.tune.present:
        for entry, dataset in zip(stage.mixture, datasets, strict=True):
            for i, sample in enumerate(dataset):
                if sample.images:
                    where = f"{dataset.where(dataset.number(i))} of {_name(entry)}"
                    raise SpecError(
                        f"stage {stage.name!r} reads only text (vision: absent), and {where} shows a picture; give it "
                        f"a mixture of text (overrides: {{{stage.name}: {{mixture: […]}}}}), or keep the recipe's own"
                    )
        return []
    if any(sample.images for dataset in datasets for sample in dataset):
        return []
    names = ", ".join(map(_name, stage.mixture))
    if "llm" not in stage.tune.trained:
        raise SpecError(
            f"stage {stage.name!r} trains {' and '.join(stage.tune.trained)}, which learn from pictures alone, and no "
            f"record of {names} shows one; give it a mixture with pictures"
        )
    return [f"stage {stage.name!r}: no record of {names} shows a picture, so it trains the language model alone"]


def _check_lengths(
    run: StageRun, datasets: Sequence[Dataset], store: Store, loaded: dict[Path, PreTrainedTokenizerBase]
) -> list[str]:
    prompter = prompter_of(run, store, loaded)
    if prompter is None:
        return []  # the stage itself looks, before its first step
    from remora.reading.truncation import check_lengths

    found = (check_lengths(e, d, prompter) for e, d in zip(run.stage.mixture, datasets, strict=True))
    return [note for note in found if note]


def prompter_of(run: StageRun, store: Store, loaded: dict[Path, PreTrainedTokenizerBase]) -> StagePrompter | None:
    """What turns a stage run's samples into tokens; None as long as no stage has made its tokenizer.

    Raises:
        SpecError: the stage's template asks for what the tokenizer does not have.
    """
    parts, stage = dict(run.parts), run.stage
    model = catalog.llm(parts["llm"])
    folder = store.tokenizer_folder(run)
    if folder is None:
        return None
    # These load torch (4 s), so only where there is something to read with.
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
