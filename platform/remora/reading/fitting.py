"""Whether a stage can read a sample: within its length, something supervised, pictures where there is an encoder.

What a stage makes of a sample is asked here by its batches, and before the stage begins of samples that are spread over
each dataset, so that a mixture that would be dropped is refused before the first step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from remora.data.conversation import Problem, Sample, Turn
from remora.data.index import Dataset
from remora.errors import DataError
from remora.marks import IGNORE
from remora.reading.prompt import OverLength, Prompter, Tokens
from remora.spec import MixtureEntry, Stage

LOOKED_AT = 1000
"""Samples of each dataset that are looked at before a stage begins: half a second of tokenising; all of a small one."""
SIGMAS = 3
"""How far above the allowed share that of the samples looked at must be, in its own standard deviations."""


@dataclass(frozen=True)
class Unfit:
    """Why a stage learns nothing from a sample: the kind (docs/data.md), and in words."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Fitting:
    """What a stage can read: `length` tokens of `prompter`'s, and pictures if it `shows` them; `whole` tokens with all
    those of its pictures, where they are bounded otherwise."""

    stage: Stage
    prompter: Prompter
    length: int
    shows: bool
    whole: int | None = None

    def __call__(self, sample: Sample) -> Tokens | Unfit:
        """Token ids and labels of a sample, cut to the stage's length where the stage says so.

        Raises:
            DataError: it has pictures that a text-only stage cannot show; or, where `over_length` is `fail`, it is
                longer than the stage allows, or nothing in it is supervised.
        """
        if sample.images and not self.shows:
            raise DataError(f"sample {sample.id!r} has a picture, but stage {self.stage.name!r} is text-only")
        fail = self.stage.over_length == "fail"
        try:
            length = None if fail else self.length
            tokens = self.prompter.encode(sample.turns, length, self.stage.count_pictures, self.whole)
        except OverLength as e:
            return Unfit("over-length-first", str(e))
        if self.excess(tokens) > 0:
            counted, allowed, way = self.counted(tokens), self.length, "raise max_length, "
            if counted <= allowed:  # it is the pictures that are too many
                counted, allowed, way = len(tokens.ids), self.whole or 0, ""
            raise DataError(
                f"sample {sample.id!r} has {counted} tokens, stage {self.stage.name!r} allows {allowed}; "
                f"{way}set over_length: cut or shorten the record"
            )
        if all(label == IGNORE for label in tokens.labels[1:]):  # nothing stands before a first token to predict it
            nothing = "no token of its answers is supervised"
            if fail:
                raise DataError(f"sample {sample.id!r}: {nothing}; remove the record or set over_length: cut")
            return Unfit("no-supervised-token", nothing)
        return tokens

    def counted(self, tokens: Tokens) -> int:
        """What of a sample counts in its length."""
        return self.prompter.counted(tokens, self.stage.count_pictures)

    def excess(self, tokens: Tokens) -> int:
        """By how many tokens a sample is too long; 0 or less if it fits."""
        return self.prompter.excess(tokens, self.length, self.stage.count_pictures, self.whole)


@dataclass
class Look:
    """What samples of one dataset, spread over it, come to in a stage."""

    of: int
    """Samples that the dataset has."""
    looked: int = 0
    cut: int = 0
    """Those that lose their last questions."""
    longest: int = 0
    """Tokens of the longest that was looked at, before it is cut."""
    unfit: Counter[str] = field(default_factory=Counter)
    """Kind -> samples that teach nothing."""
    first: str = ""
    """The first of those."""

    @property
    def share(self) -> float:
        """Of the dataset's samples that teach nothing: exact if all were looked at, else as far as that is sure."""
        found = self.unfit.total() / max(1, self.looked)
        return found - SIGMAS * math.sqrt(found * (1 - found) / self.looked) if self.looked < self.of else found


def look(samples: Sequence[Sample], fitting: Fitting, most: int = LOOKED_AT) -> Look:
    """Try samples of a dataset; see `Look`.

    Raises:
        DataError: one of them stops the stage.
    """
    found = Look(len(samples))
    for i in range(0, len(samples), max(1, math.ceil(len(samples) / most))):
        sample = samples[i]
        fitted = fitting(sample)
        found.looked += 1
        if isinstance(fitted, Unfit):
            found.unfit[fitted.kind] += 1
            found.first = found.first or f"{sample.id!r}: {fitted.reason}"
        tokens = fitting.prompter.encode(sample.turns)
        found.longest = max(found.longest, fitting.counted(tokens))
        found.cut += not isinstance(fitted, Unfit) and fitting.excess(tokens) > 0
    return found


def check_lengths(entry: MixtureEntry, dataset: Dataset, fitting: Fitting) -> str | None:
    """What is worth knowing of how an entry fits a stage: how many of its samples are cut or dropped.

    Raises:
        DataError: more of them are dropped, with those that the index skips, than `max_skipped` allows.
    """
    found = look(dataset, fitting)
    name, stage = entry.dataset or entry.path, fitting.stage
    among = f"of {found.of:,} samples" if found.looked == found.of else f"of {found.looked:,} samples looked at"
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in found.unfit.items())
    if found.unfit and dataset.skipped + found.share * found.of > entry.max_skipped * dataset.records:
        before = f" and {dataset.skipped:,} records are skipped" if dataset.skipped else ""
        acts = f", of which {fitting.length} act" if fitting.length < stage.max_length else ""
        raise DataError(
            f"stage {stage.name!r}: {name}: {kinds} {among}{before}, more than max_skipped {entry.max_skipped:g} "
            f"allows; the first is sample {found.first}; raise max_length ({stage.max_length}{acts}), "
            "shorten the records, or raise max_skipped"
        )
    if not (found.unfit or found.cut):
        return None
    said = [f"{kinds} dropped"] * bool(kinds) + [f"{found.cut:,} cut at a turn's end"] * bool(found.cut)
    return f"stage {stage.name!r}: {name}: {' and '.join(said)}, {among}; the longest has {found.longest:,} tokens"


def prompt_problems(
    prompter: Prompter, max_length: int, count_pictures: bool, whole: int | None, turns: Sequence[Turn]
) -> Iterator[Problem]:
    """What `data check` says of a sound conversation: too long for `max_length` or, with all of its pictures, `whole`;
    nothing supervised; a system message that its template does not write."""
    if turns[0].role == "system" and not prompter.template.writes_questions:
        yield "system-unread", "its template writes neither questions nor a system message"
    tokens = prompter.encode(turns)
    if all(label == IGNORE for label in tokens.labels[1:]):
        yield "no-supervised-token", "no token of its answers is supervised"
    if prompter.excess(tokens, max_length, count_pictures, whole) <= 0:
        return
    try:
        kept = prompter.encode(turns, max_length, count_pictures, whole)
        counted, allowed = prompter.counted(tokens, count_pictures), max_length
        if counted <= max_length:  # it is the pictures that are too many
            counted, allowed = len(tokens.ids), whole or 0
        yield "over-length", f"{counted} tokens, of {allowed} allowed; cut to {len(kept.ids)} at a turn's end"
    except OverLength as e:
        yield "over-length-first", str(e)
