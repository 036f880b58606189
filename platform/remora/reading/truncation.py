"""Fit samples to a stage's length: tokens, cut if necessary, or the reason why a sample is dropped.

Batches use it for every sample. Before the first step, samples spread over each dataset are tried, so that a mixture
of which too much would be dropped is refused early.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from remora.data.conversation import Problem, Sample, Turn
from remora.data.index import Dataset
from remora.errors import DataError
from remora.reading.prompt import OverLength, Prompter, Size, Tokens
from remora.spec import MixtureEntry, Stage

LOOKED_AT = 1000
"""Maximum samples of each dataset that are tried before a stage begins: half a second of tokenising."""
SIGMAS = 3
"""A dataset is refused if the dropped fraction of the tried samples is this many standard deviations above the
limit."""
SILENT = "no token of its answers is supervised"


@dataclass(frozen=True)
class Unfit:
    """Why a sample is dropped: the kind (docs/data.md) and a description."""

    kind: str
    reason: str


@dataclass(frozen=True)
class StagePrompter:
    """A prompter with the limits of a stage; `context` is the language model's, in tokens."""

    stage: Stage
    prompter: Prompter
    context: int | None = None

    @property
    def length(self) -> int:
        """Maximum tokens of a sample, counted as the stage counts them."""
        return self.stage.length(self.context)

    def encode(self, sample: Sample) -> Tokens | Unfit:
        """Token ids and labels of a sample, cut to the stage's length with `over_length: cut`.

        Raises:
            DataError: it has pictures and the stage is text-only; or, with `over_length: fail`, it is too long or has
            no
                supervised token.
        """
        if sample.images and not self._shows:
            raise DataError(f"sample {sample.id!r} has a picture, but stage {self.stage.name!r} is text-only")
        fail = self.stage.over_length == "fail"
        try:
            tokens = self.prompter.encode(sample.turns) if fail else self._cut(sample.turns)
        except OverLength as e:
            return Unfit("over-length-first", str(e))
        if self.excess(tokens.size) > 0:
            counted, allowed, way = self.counted(tokens.size), self.length, "raise max_length, "
            if counted <= allowed:  # the pictures take it over the limit
                counted, allowed, way = len(tokens.ids), self._whole or 0, ""
            raise DataError(
                f"sample {sample.id!r} has {counted} tokens, stage {self.stage.name!r} allows {allowed}; "
                f"{way}set over_length: cut or shorten the record"
            )
        if not tokens.size.supervised:
            if fail:
                raise DataError(f"sample {sample.id!r}: {SILENT}; remove the record or set over_length: cut")
            return Unfit("no-supervised-token", SILENT)
        return tokens

    def fits(self, size: Size) -> bool:
        """Whether a conversation of that size fits, so that `encode` neither cuts nor refuses it."""
        return size.supervised > 0 and self.excess(size) <= 0 and (self._shows or not size.images)

    def problems(self, turns: Sequence[Turn]) -> Iterator[Problem]:
        """Problems that `data check` reports for a valid conversation."""
        if turns[0].role == "system" and not self.prompter.template.writes_questions:
            yield "system-unread", "its template writes neither questions nor a system message"
        tokens = self.prompter.encode(turns)
        if not tokens.size.supervised:
            yield "no-supervised-token", SILENT
        if self.excess(tokens.size) <= 0:
            return
        try:
            kept = self._cut(turns)
            counted, allowed = self.counted(tokens.size), self.length
            if counted <= allowed:  # the pictures take it over the limit
                counted, allowed = len(tokens.ids), self._whole or 0
            yield "over-length", f"{counted} tokens, of {allowed} allowed; cut to {len(kept.ids)} at a turn's end"
        except OverLength as e:
            yield "over-length-first", str(e)

    def counted(self, size: Size) -> int:
        """The length of a conversation, counted as the stage counts it."""
        return self.prompter.counted(size, self.stage.count_pictures)

    def excess(self, size: Size) -> int:
        """By how many tokens a conversation is too long; 0 or less if it fits."""
        return self.prompter.excess(size, self.length, self.stage.count_pictures, self._whole)

    @property
    def _whole(self) -> int | None:
        return self.stage.whole(self.context)

    @property
    def _shows(self) -> bool:
        return "vision" in self.stage.tune.present

    def _cut(self, turns: Sequence[Turn]) -> Tokens:
        return self.prompter.encode(turns, self.length, self.stage.count_pictures, self._whole)


@dataclass
class Look:
    """The result of trying samples spread over one dataset."""

    of: int
    """Number of samples in the dataset."""
    looked: int = 0
    cut: int = 0
    """Number of samples that lose turns at their end."""
    longest: int = 0
    """Tokens of the longest tried sample, before it is cut."""
    unfit: Counter[str] = field(default_factory=Counter)
    """Kind -> number of dropped samples."""
    first: str = ""
    """The first dropped sample."""

    @property
    def share(self) -> float:
        """Fraction of dropped samples in the dataset: exact if all were tried, else a lower bound by SIGMAS."""
        found = self.unfit.total() / max(1, self.looked)
        return found - SIGMAS * math.sqrt(found * (1 - found) / self.looked) if self.looked < self.of else found


def look(samples: Sequence[Sample], prompter: StagePrompter, most: int = LOOKED_AT) -> Look:
    """Try samples of a dataset; see `Look`.

    Raises:
        DataError: one of them would stop the stage.
    """
    found = Look(len(samples))
    for i in range(0, len(samples), max(1, math.ceil(len(samples) / most))):
        sample = samples[i]
        encoded = prompter.encode(sample)
        found.looked += 1
        if isinstance(encoded, Unfit):
            found.unfit[encoded.kind] += 1
            found.first = found.first or f"{sample.id!r}: {encoded.reason}"
        size = prompter.prompter.encode(sample.turns).size
        found.longest = max(found.longest, prompter.counted(size))
        found.cut += not isinstance(encoded, Unfit) and prompter.excess(size) > 0
    return found


def check_lengths(entry: MixtureEntry, dataset: Dataset, prompter: StagePrompter) -> str | None:
    """A note on how many of an entry's samples are cut or dropped; None if none are.

    Raises:
        DataError: dropped and skipped samples are more than `max_skipped` allows.
    """
    found = look(dataset, prompter)
    name, stage = entry.dataset or entry.path, prompter.stage
    among = f"of {found.of:,} samples" if found.looked == found.of else f"of {found.looked:,} samples looked at"
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in found.unfit.items())
    if found.unfit and dataset.skipped + found.share * found.of > entry.max_skipped * dataset.records:
        before = f" and {dataset.skipped:,} records are skipped" if dataset.skipped else ""
        acts = f", of which {prompter.length} act" if prompter.length < stage.max_length else ""
        raise DataError(
            f"stage {stage.name!r}: {name}: {kinds} {among}{before}, more than max_skipped {entry.max_skipped:g} "
            f"allows; the first is sample {found.first}; raise max_length ({stage.max_length}{acts}), "
            "shorten the records, or raise max_skipped"
        )
    if not (found.unfit or found.cut):
        return None
    said = [f"{kinds} dropped"] * bool(kinds) + [f"{found.cut:,} cut at a turn's end"] * bool(found.cut)
    return f"stage {stage.name!r}: {name}: {' and '.join(said)}, {among}; the longest has {found.longest:,} tokens"
