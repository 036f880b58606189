"""A stage's data: datasets opened and fingerprinted, and the batch of any step as a pure function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from remora import catalog
from remora.data.conversation import Sample
from remora.data.images import preprocess
from remora.data.index import NOTED, Dataset
from remora.data.indexing import Progress, Spread, open_dataset
from remora.data.locations import absolute, parent
from remora.data.order import mixture_order
from remora.data.prompt import OverLength, Prompter, Tokens
from remora.data.sources import find_source
from remora.errors import DataError
from remora.files import digest
from remora.model.vlm import IGNORE, Batch
from remora.spec import MixtureEntry, Stage


def locate(entry: MixtureEntry, data: Path) -> tuple[str, str, str]:
    """(location, image folder, what to do if it is missing) of a mixture entry; `data` holds the catalog's sets."""
    if entry.dataset is not None:
        known = catalog.dataset(entry.dataset)
        hint = f" (dataset {entry.dataset!r}); next: {known.next_step(entry.dataset, data)}"
        return str(data / known.path), str(data / known.images), hint
    assert entry.path is not None
    location = absolute(entry.path)
    return location, absolute(entry.images) if entry.images else parent(location), "; give the path of a dataset"


def open_entry(
    entry: MixtureEntry, data: Path, spread: Spread | None = None, progress: Progress | None = None
) -> Dataset:
    """The dataset of a mixture entry, without what the entry skips. Its index is built first if need be.

    Raises:
        DataError: it is missing or unreadable; it has problems that the entry does not skip; or it skips more than
            the entry allows. The first such record is named, and how many there are of each kind.
    """
    location, images, hint = locate(entry, data)
    check = f"remora data check {entry.dataset or location}"
    try:
        whole = open_dataset(find_source(location), location, images, data / "index", spread, progress)
    except DataError as e:
        raise DataError(f"{e}{hint}") from None
    bad = {kind: n for kind, n in whole.counts.items() if kind not in NOTED and kind not in entry.skip}
    if bad:
        first = next(flaw for flaw in whole.flaws() if flaw.kind in bad)
        counts = ", ".join(f"{n:,} {kind}" for kind, n in bad.items())
        raise DataError(
            f"{whole.where(first.record)}: {first.problem} ({counts} of {whole.records:,} records); "
            f"mend or remove them ({check}), or let the mixture skip: [{', '.join(bad)}]"
        )
    kept = Dataset(whole.folder, entry.skip) if entry.skip else whole
    if kept.skipped > entry.max_skipped * kept.records:
        raise DataError(
            f"{location}: {kept.skipped:,} of {kept.records:,} records are skipped, more than max_skipped "
            f"{entry.max_skipped:g} allows; mend the dataset ({check}) or raise it"
        )
    return kept


def read_mixture(mixture: Sequence[MixtureEntry], data: Path) -> list[Dataset]:
    """Every dataset of a mixture, in order; see `open_entry`."""
    return [open_entry(entry, data) for entry in mixture]


def fingerprint(mixture: Sequence[MixtureEntry], data: Path) -> str:
    """Digest of everything that a mixture reads: records and the bytes of pictures, not where they lie."""
    return digest([[dataset.digest, len(dataset)] for dataset in read_mixture(mixture, data)])


def collate(
    samples: Sequence[tuple[Tokens, list[torch.Tensor]]], pad: int, side: int, keys: Sequence[int] | None = None
) -> Batch:
    """Pad on the right to the longest sample; pictures follow each other in reading order.

    `keys` are what dropout masks follow from, one a sample.
    """
    keys = keys or [0] * len(samples)
    longest = max(len(tokens.ids) for tokens, _ in samples)
    ids = torch.full((len(samples), longest), pad)
    labels = torch.full((len(samples), longest), IGNORE)
    mask = torch.zeros(len(samples), longest, dtype=torch.long)
    for row, (tokens, _) in enumerate(samples):
        length = len(tokens.ids)
        ids[row, :length] = torch.tensor(tokens.ids)
        labels[row, :length] = torch.tensor(tokens.labels)
        mask[row, :length] = 1
    pictures = [pixels for _, images in samples for pixels in images]
    image_keys = [key * 1_000 + i for key, (_, images) in zip(keys, samples, strict=True) for i in range(len(images))]
    pixels = torch.stack(pictures) if pictures else torch.zeros(0, 3, side, side)
    # A batch without a picture runs a blank one through the encoder (see VisionLanguageModel.embed).
    return Batch(ids, mask, labels, pixels, torch.tensor(keys), torch.tensor(image_keys or [0]))


class StageData:
    """The batches of a stage. It has no position: `micro_batches` is a pure function of its arguments.

    `dropped` says, by sample id, why a sample of the batches made so far by this object taught nothing. It keeps its
    row, one padding token without a label, so that what a step reads stays a function of the step alone.
    """

    def __init__(
        self, stage: Stage, data: Path, prompter: Prompter, vision: str | None, seed: int, context: int | None = None
    ) -> None:
        self.stage = stage
        self.seed = seed >> 16  # room for positions in 63 bits
        self.samples = read_mixture(stage.mixture, data)
        self.order = mixture_order(stage.mixture, [len(s) for s in self.samples], seed)
        self.prompter = prompter
        self.encoder = catalog.vision(vision) if vision else None
        self.max_length = min(stage.max_length, context or stage.max_length)
        tokenizer = prompter.tokenizer
        self.dropped: dict[str, str] = {}
        self.pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
        self.total = stage.steps * stage.batch if stage.steps else round(self.order.epoch_size * (stage.epochs or 1))
        self.steps = math.ceil(self.total / stage.batch)

    def positions(self, step: int) -> range:
        """Positions of the global batch of a step; the last batch of a run in epochs may be smaller."""
        return range(step * self.stage.batch, min((step + 1) * self.stage.batch, self.total))

    def sample(self, position: int) -> Sample:
        dataset, index = self.order[position]
        return self.samples[dataset][index]

    def encode(self, sample: Sample) -> Tokens:
        """Token ids and labels of a sample, cut to the stage's length or dropped where the stage says so.

        Raises:
            DataError: it has pictures that a text-only stage cannot show; or, where `over_length` is `fail`, it is
                longer than the stage allows, or nothing in it is supervised.
        """
        if sample.images and self.encoder is None:
            raise DataError(f"sample {sample.id!r} has a picture, but stage {self.stage.name!r} is text-only")
        fail = self.stage.over_length == "fail"
        try:
            tokens = self.prompter.encode(sample.turns, None if fail else self.max_length)
        except OverLength as e:
            return self._drop(sample, str(e))
        if len(tokens.ids) > self.max_length:
            raise DataError(
                f"sample {sample.id!r} has {len(tokens.ids)} tokens, "
                f"stage {self.stage.name!r} allows {self.max_length}; "
                f"raise max_length, set over_length: cut or shorten the record"
            )
        if all(label == IGNORE for label in tokens.labels[1:]):  # nothing stands before a first token to predict it
            nothing = "no token of its answers is supervised"
            if fail:
                raise DataError(f"sample {sample.id!r}: {nothing}; remove the record or set over_length: cut")
            return self._drop(sample, nothing)
        return tokens

    def _drop(self, sample: Sample, reason: str) -> Tokens:
        self.dropped[sample.id] = reason
        return Tokens([self.pad], [IGNORE])

    def micro_batches(self, step: int, rank: int, world: int, size: int, count: int) -> Iterator[Batch]:
        """The rank's share of a step's global batch as `count` micro batches of at most `size` samples.

        Where a rank has no sample left (a last, smaller batch; fewer samples than ranks) it gets a batch without
        supervised tokens, so that every rank takes the same number of forward and backward passes.
        """
        positions = self.positions(step)
        mine = positions[rank::world]
        for i in range(count):
            chosen = mine[i * size : (i + 1) * size]
            if chosen:
                yield self._batch(chosen)
            else:
                filler = self._batch(positions[:1])
                filler.labels.fill_(IGNORE)
                yield filler

    def _batch(self, positions: Sequence[int]) -> Batch:
        encoder = self.encoder
        rows = []
        for sample in (self.sample(p) for p in positions):
            tokens = self.encode(sample)
            pictures = []
            if encoder:
                shown = sample.images[: tokens.images]  # not those of rounds that were cut
                pictures = [preprocess(p.open(), encoder, self.stage.aspect) for p in shown]
            rows.append((tokens, pictures))
        keys = [self.seed + p for p in positions]
        return collate(rows, self.pad, encoder.input_size if encoder else 1, keys)
