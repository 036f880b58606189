"""The plan of a spec: its graph of stage runs, and which of them exist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.data.mixture import Readable
from remora.notebook import table
from remora.planning.outline import Outline, read_or_outline, trained_or_outlined
from remora.runs import StageRun, Store, outlook, paths, union, variant_name
from remora.runs.licences import Permission, permission
from remora.runs.operations import operations, sample_size
from remora.runs.rates import kind_of
from remora.spec import MixtureEntry, Variant
from remora.training import journal

if TYPE_CHECKING:
    from remora.planning.makespan import Forecasts
    from remora.planning.serving import ServingFit
    from remora.planning.sizing import Sized
    from remora.runs.predictions import CheckedPrediction


@dataclass(frozen=True)
class PlanRow:
    """One stage run: its name, the variants that use it, its steps and samples, and its state."""

    run: str
    variants: tuple[str, ...]
    steps: int
    samples: int
    state: Literal["finished", "to train", "no data"]
    """no data: one of its datasets, or of an earlier stage, is not downloaded, so it has no identity yet."""
    exact: bool = True
    """Whether steps and samples follow from exact counts, not from a rounded published figure."""
    id: str = ""
    stage: str = ""
    operations: float = 0.0
    """Floating point operations of the whole stage run (`runs.operations`)."""
    taken: int = 0
    """Steps that an unfinished stage run has behind it."""
    kind: str = ""
    """Stages that one rate is for (`runs.rates.kind_of`)."""
    text_assumed: bool = False
    """Whether the length of a sample's text is assumed, because a dataset is not downloaded."""

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @property
    def left(self) -> float:
        """Operations that are still to be done."""
        return 0.0 if self.finished else self.operations * (1 - self.taken / self.steps)


@dataclass(frozen=True)
class Shape:
    """Shapes of a picture in a variant: side in pixels, tokens and their channels, embeddings in the language model."""

    variant: str
    pixels: int
    tokens: int
    width: int
    embeddings: int


@dataclass(frozen=True)
class Plan:
    rows: tuple[PlanRow, ...]
    shapes: tuple[Shape, ...]
    missing: tuple[str, ...] = ()
    """Datasets that are not downloaded."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""
    paths: Mapping[str, tuple[StageRun, ...]] = field(default_factory=dict)
    """Variant -> its stage runs."""
    forecasts: Forecasts | None = None
    """What training takes; `remora.plan` and the command add it."""
    sizes: tuple[Sized, ...] = ()
    """Memory of its stages on a named device; the same two add it."""
    serving: tuple[ServingFit, ...] = ()
    """What its compositions take when they answer on that device."""
    permissions: Mapping[str, Permission] = field(default_factory=dict)
    """Variant -> what its model may be used for, by the licences of its parts and of all its data."""
    record: tuple[CheckedPrediction, ...] = ()
    """The last predictions on this kind of device beside what came, the newest first; the same two add it."""

    @property
    def distinct(self) -> int:
        return len(self.rows)

    @property
    def uses(self) -> int:
        """Number of stage runs without sharing."""
        return sum(len(r.variants) for r in self.rows)

    @property
    def to_train(self) -> int:
        return sum(not r.finished for r in self.rows)

    @property
    def samples(self) -> int:
        """Samples of stage runs that are still to be trained."""
        return sum(r.samples for r in self.rows if not r.finished)

    @property
    def operations(self) -> float:
        """Of what is still to be trained."""
        return sum(r.left for r in self.rows)

    def _repr_html_(self) -> str:
        """Its stage runs, in a notebook."""
        rows = ((r.run, ", ".join(r.variants), r.steps, r.samples, f"{r.operations:.3g}", r.state) for r in self.rows)
        columns = ("stage run", "used by", "steps", "samples", "FLOPs", "state")
        return table(f"{self.distinct} stage runs, {self.to_train} to train", columns, rows)

    @property
    def samples_without_sharing(self) -> int:
        return sum(r.samples * len(r.variants) for r in self.rows)


def plan_of(variants: Sequence[Variant], store: Store) -> Plan:
    """The plan of some variants. Reads the downloaded datasets; for others it uses the counts in the catalog.

    Raises:
        RemoraError: an unknown name, a missing dataset of your own, parts that do not fit, or a stage that could not
        run
            or would learn nothing.
    """
    opened: dict[tuple[MixtureEntry, ...], Sequence[Readable]] = {}

    def read(mixture: tuple[MixtureEntry, ...], data: Path) -> Sequence[Readable]:
        return opened.setdefault(mixture, read_or_outline(mixture, data))

    found = paths(variants, store.data, read)
    notes: list[str] = []
    rows = tuple(
        _row(run, tuple(name for name, p in found.items() if run in p), opened, store, notes)
        for run in union(found.values()).values()
    )
    outlines = [d for datasets in opened.values() for d in datasets if isinstance(d, Outline)]
    missing = tuple(dict.fromkeys(o.name for o in outlines))
    allowed = {
        name: permission(variant, [run.stage for run in lineage])
        for variant, (name, lineage) in zip(variants, found.items(), strict=True)
    }
    shapes = tuple(_shape(v) for v in variants)
    return Plan(rows, shapes, missing, tuple(dict.fromkeys(notes)), found, permissions=allowed)


def _row(
    run: StageRun,
    users: tuple[str, ...],
    opened: dict[tuple[MixtureEntry, ...], Sequence[Readable]],
    store: Store,
    notes: list[str],
) -> PlanRow:
    stage, others = run.stage, run.stage.validation.mixture if run.stage.validation else ()
    datasets = trained_or_outlined(stage, opened[stage.mixture], opened[others])
    outlined = any(isinstance(d, Outline) for before in run.lineage for d in opened[before.stage.mixture])
    exact = all(d.exact for d in datasets if isinstance(d, Outline)) or stage.steps is not None
    finished = not outlined and store.there(run)
    (steps, samples), more = outlook(stage, datasets, finished)
    notes += more
    size = sample_size(datasets)
    taken, again = (0, 0) if outlined or finished else journal.taken(store.journal(run))
    return PlanRow(
        f"{stage.name}-?" if outlined else run.name,
        users,
        steps,
        samples,
        "no data" if outlined else "finished" if finished else "to train",
        exact,
        run.id,
        stage.name,
        operations(stage, dict(run.parts), samples, size),
        min(taken - again, steps),
        kind_of(stage.name, dict(run.parts)),
        size.assumed,
    )


def _shape(variant: Variant) -> Shape:
    encoder, connector = catalog.vision(variant.vision), catalog.connector(variant.connector)
    embeddings = check_composition(encoder, connector, catalog.llm(variant.llm))
    return Shape(variant_name(variant), encoder.input_size, encoder.tokens, encoder.width, embeddings)
