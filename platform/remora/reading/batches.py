"""The batches of a stage: which samples, on which rank, in which rows, as a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from remora import catalog
from remora.batch import Batch
from remora.data.conversation import Sample
from remora.data.index import Dataset
from remora.data.order import mixture_order, stage_length
from remora.errors import BrokenRecord
from remora.marks import IGNORE
from remora.reading.fitting import StagePrompter, Unfit
from remora.reading.images import preprocess
from remora.reading.packing import deal, group, pack
from remora.reading.prompt import Prompter, Tokens
from remora.spec import Rows, Stage


def collate(
    samples: Sequence[tuple[Tokens, list[Tensor]]],
    pad: int,
    side: int,
    keys: Sequence[int] | None = None,
    rows: Rows = "padded",
) -> Batch:
    """One row a sample, padded on the right to the longest; or, packed, one row for all, one after the other.

    Pictures, 3 x side x side, follow each other in reading order. `keys` are what dropout masks follow from, one a
    sample.
    """
    keys = keys or [0] * len(samples)
    lengths = tuple(len(tokens.ids) for tokens, _ in samples)
    shape = (1, sum(lengths)) if rows == "packed" else (len(samples), max(lengths))
    ids, labels = torch.full(shape, pad), torch.full(shape, IGNORE)
    mask = torch.zeros(shape, dtype=torch.long)
    row, start = 0, 0
    for (tokens, _), length in zip(samples, lengths, strict=True):
        here = row, slice(start, start + length)
        ids[here], labels[here], mask[here] = torch.tensor(tokens.ids), torch.tensor(tokens.labels), 1
        row, start = (row, start + length) if rows == "packed" else (row + 1, 0)
    pictures = [pixels for _, images in samples for pixels in images]
    image_keys = [key * 1_000 + i for key, (_, images) in zip(keys, samples, strict=True) for i in range(len(images))]
    pixels = torch.stack(pictures) if pictures else torch.zeros(0, 3, side, side)
    # A batch without a picture runs a blank one through the encoder (see VisionLanguageModel.embed).
    packed = lengths if rows == "packed" else ()
    return Batch(ids, mask, labels, pixels, torch.tensor(keys), torch.tensor(image_keys or [0]), packed)


@dataclass(frozen=True)
class Dropped:
    """A sample that teaches nothing: its entry's number in the mixture, the kind of problem (docs/data.md), and why."""

    entry: int
    kind: str
    reason: str


@dataclass(frozen=True)
class StepBatches:
    """A rank's share of a step: its micro batches, one a forward pass."""

    batches: Sequence[Batch]
    dropped: Mapping[str, Dropped]
    """Sample id -> why it teaches nothing. Every rank knows of those that the stage's length drops; of those whose
    picture cannot be opened, where their entry skips that, only the rank that shows them."""


class StageData:
    """The batches of a stage. It has no position: `read` is a pure function of its arguments.

    A sample that teaches nothing has no place in a packed row. Among padded rows it keeps its own, one padding token
    without a label.
    """

    def __init__(
        self,
        stage: Stage,
        datasets: Sequence[Dataset],
        prompter: Prompter,
        vision: str | None,
        seed: int,
        context: int | None = None,
    ) -> None:
        self.stage = stage
        self.seed = seed >> 16  # room for positions in 63 bits
        self.samples = datasets
        self.order = mixture_order(stage.mixture, [len(s) for s in self.samples], seed)
        self.prompter, self.limits = prompter, StagePrompter(stage, prompter, context)
        self.encoder = catalog.vision(vision) if vision else None
        self.max_length, self.whole = stage.length(context), stage.whole(context)
        tokenizer = prompter.tokenizer
        self.pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
        self.steps, self.total = stage_length(stage, self.order.epoch_size)

    def positions(self, step: int) -> range:
        """Positions of the global batch of a step; the last batch of a run in epochs may be smaller."""
        return range(step * self.stage.batch, min((step + 1) * self.stage.batch, self.total))

    def sample(self, position: int) -> Sample:
        dataset, index = self.order[position]
        return self.samples[dataset][index]

    def encode(self, sample: Sample) -> Tokens | Unfit:
        """Token ids and labels of a sample, or why it is dropped; raises as `StagePrompter.encode` does."""
        return self.limits.encode(sample)

    def read(self, step: int, rank: int, world: int, size: int, rows: Rows) -> StepBatches:
        """The rank's share of a step's global batch, as many micro batches on every rank.

        Packed, a micro batch is a row of at most `size` x max_length tokens; padded, it is at most `size` samples of
        like length. What goes where follows from the lengths of all samples of the step; a rank opens its own pictures.
        Where there is nothing left for a rank its batch is a token without a label.
        """
        dropped: dict[str, Dropped] = {}
        read = []
        for position in self.positions(step):
            sample = self.sample(position)
            encoded = self.encode(sample)
            if isinstance(encoded, Unfit):
                dropped[sample.id] = Dropped(self.order[position][0], encoded.kind, encoded.reason)
                if rows == "packed":
                    continue
                encoded = self._nothing
            read.append((position, sample, encoded))
        lengths = [len(tokens.ids) for _, _, tokens in read]
        # Where pictures do not count, a sample may be longer than a row of one would be.
        capacity = max([size * self.max_length, *lengths])
        shares = pack(lengths, capacity, world) if rows == "packed" else group(lengths, size, world)
        mine = [[read[i] for i in share] for share in deal(shares, rank, world)]
        return StepBatches([self._batch(share, rows, dropped) for share in mine], dropped)

    @property
    def _nothing(self) -> Tokens:
        return Tokens([self.pad], [IGNORE])

    def _batch(self, read: Sequence[tuple[int, Sample, Tokens]], rows: Rows, dropped: dict[str, Dropped]) -> Batch:
        shown = []
        for position, sample, tokens in read:
            pixels = self._pixels(position, sample, tokens)
            if isinstance(pixels, Dropped):
                dropped[sample.id] = pixels
            shown.append((self._nothing, []) if isinstance(pixels, Dropped) else (tokens, pixels))
        keys = [self.seed + position for position, _, _ in read]
        side = self.encoder.input_size if self.encoder else 1
        return collate(shown or [(self._nothing, [])], self.pad, side, keys, rows)

    def _pixels(self, position: int, sample: Sample, tokens: Tokens) -> list[Tensor] | Dropped:
        """The pictures that a sample shows, or why one is not read, where the mixture's entry skips that.

        Raises:
            DataError: a picture cannot be opened, for a reason that its entry does not skip or that may pass.
        """
        if self.encoder is None:
            return []
        shown = sample.images[: tokens.images]  # not those of rounds that were cut
        try:
            return [preprocess(p.open(), self.encoder, self.stage.aspect) for p in shown]
        except BrokenRecord as e:
            entry, _ = self.order[position]
            if e.kind not in self.stage.mixture[entry].skip:
                raise
            return Dropped(entry, e.kind, str(e))
