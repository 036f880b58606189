"""The batches of a stage. Samples, ranks and rows are a pure function of (seed, step)."""

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
from remora.reading.images import preprocess
from remora.reading.lengths import Lengths
from remora.reading.packing import deal, group, pack
from remora.reading.prompt import Prompter, Tokens
from remora.reading.truncation import StagePrompter, Unfit
from remora.spec import Rows, Stage
from remora.token_ids import IGNORE


def collate(
    samples: Sequence[tuple[Tokens, list[Tensor]]],
    pad: int,
    side: int,
    keys: Sequence[int] | None = None,
    rows: Rows = "padded",
) -> Batch:
    """Collate samples: padded on the right to the longest, one per row; or packed into a single row.

    Pictures [I, 3, side, side] are in reading order. `keys` are the seeds of dropout masks, one per sample.
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
    """A dropped sample: its entry's index in the mixture, the kind of problem (docs/data.md), and the reason."""

    entry: int
    kind: str
    reason: str


@dataclass(frozen=True)
class Planned:
    """A sample of a step: its position in the stage, its number of tokens, and its content if it had to be read."""

    position: int
    length: int
    read: tuple[Sample, Tokens] | None = None


@dataclass(frozen=True)
class StepBatches:
    """A rank's share of a step: its micro batches, one per forward pass."""

    batches: Sequence[Batch]
    dropped: Mapping[str, Dropped]
    """Sample id -> why it is dropped. Every rank has those dropped for their length; those dropped for an unreadable
    picture are only on the rank that reads them."""


class StageData:
    """The batches of a stage. It is stateless: `read` is a pure function of its arguments.

    A dropped sample is left out of packed rows. A padded batch keeps its row, with one padding token without a label.
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
        self.lengths: Sequence[Lengths | None] = ()
        """Lengths of each dataset's samples, if measured."""
        self.order = mixture_order(stage.mixture, [len(s) for s in self.samples], seed)
        self.prompter, self.limits = prompter, StagePrompter(stage, prompter, context)
        self.encoder = catalog.vision(vision) if vision else None
        self.max_length, self.whole = stage.length(context), stage.whole(context)
        tokenizer = prompter.tokenizer
        self.pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
        self.steps, self.total = stage_length(stage, self.order.epoch_size)

    def positions(self, step: int) -> range:
        """Positions of a step's global batch. If the stage is given in epochs, the last batch may be smaller."""
        return range(step * self.stage.batch, min((step + 1) * self.stage.batch, self.total))

    def sample(self, position: int) -> Sample:
        dataset, index = self.order[position]
        return self.samples[dataset][index]

    def encode(self, sample: Sample) -> Tokens | Unfit:
        """Token ids and labels of a sample, or why it is dropped; raises as `StagePrompter.encode` does."""
        return self.limits.encode(sample)

    def read(self, step: int, rank: int, world: int, size: int, rows: Rows) -> StepBatches:
        """The rank's share of a step's global batch. Every rank has the same number of micro batches.

        Packed, a micro batch is a row of at most `size` x max_length tokens; padded, it is at most `size` samples of
        similar length. The assignment needs the lengths of all samples of the step. They are in the tables of
        `lengths`, so a rank only tokenises its own samples and those that are cut or dropped; without tables it
        tokenises all. If no samples are left for a rank, its batch is one token without a label.
        """
        dropped: dict[str, Dropped] = {}
        places = []
        for position in self.positions(step):
            if (length := self._measured(position)) is not None:
                places.append(Planned(position, length))
                continue
            sample = self.sample(position)
            tokens = self.encode(sample)
            if isinstance(tokens, Unfit):
                dropped[sample.id] = Dropped(self.order[position][0], tokens.kind, tokens.reason)
                if rows == "packed":
                    continue
                tokens = self._nothing
            places.append(Planned(position, len(tokens.ids), (sample, tokens)))
        lengths = [place.length for place in places]
        # If pictures do not count, a single sample may be longer than a row.
        capacity = max([size * self.max_length, *lengths])
        shares = pack(lengths, capacity, world) if rows == "packed" else group(lengths, size, world)
        mine = [[places[i] for i in share] for share in deal(shares, rank, world)]
        return StepBatches([self._batch(share, rows, dropped) for share in mine], dropped)

    @property
    def _nothing(self) -> Tokens:
        return Tokens([self.pad], [IGNORE])

    def _measured(self, position: int) -> int | None:
        """The length of a sample that is not cut, if a table has it."""
        dataset, index = self.order[position]
        if not self.lengths or (lengths := self.lengths[dataset]) is None:
            return None
        size = lengths[index]
        return size.tokens if self.limits.fits(size) else None

    def _read(self, place: Planned) -> tuple[Sample, Tokens]:
        if place.read:
            return place.read
        sample = self.sample(place.position)
        tokens = self.encode(sample)
        found = 0 if isinstance(tokens, Unfit) else len(tokens.ids)
        if isinstance(tokens, Unfit) or found != place.length:
            dataset, index = self.order[place.position]
            lengths = self.lengths[dataset]
            assert lengths is not None
            raise lengths.wrong(index, found)
        return sample, tokens

    def _batch(self, places: Sequence[Planned], rows: Rows, dropped: dict[str, Dropped]) -> Batch:
        shown = []
        for place in places:
            sample, tokens = self._read(place)
            pixels = self._pixels(place.position, sample, tokens)
            if isinstance(pixels, Dropped):
                dropped[sample.id] = pixels
            shown.append((self._nothing, []) if isinstance(pixels, Dropped) else (tokens, pixels))
        keys = [self.seed + place.position for place in places]
        side = self.encoder.input_size if self.encoder else 1
        return collate(shown or [(self._nothing, [])], self.pad, side, keys, rows)

    def _pixels(self, position: int, sample: Sample, tokens: Tokens) -> list[Tensor] | Dropped:
        """The pixels of a sample's pictures, or the reason for dropping it if the mixture entry skips that problem.

        Raises:
            DataError: a picture cannot be opened, and the entry does not skip the problem or it may be transient.
        """
        if self.encoder is None:
            return []
        shown = sample.images[: tokens.images]  # without those of turns that were cut
        try:
            return [preprocess(p.open(), self.encoder, self.stage.aspect) for p in shown]
        except BrokenRecord as e:
            entry, _ = self.order[position]
            if e.kind not in self.stage.mixture[entry].skip:
                raise
            return Dropped(entry, e.kind, str(e))
