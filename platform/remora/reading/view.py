"""Show one sample as the model reads it: every token with its label, every picture before and after preprocessing.

Nothing is rendered separately: ids, labels, cuts and order come from StageData, and a token's text is what the
tokenizer decodes it to. What is shown is thus exactly what a training step gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor

from remora.catalog import Vision
from remora.data.conversation import Sample, Turn
from remora.errors import DataError
from remora.reading.batches import StageData
from remora.reading.images import Aspect, preprocess
from remora.reading.prompt import OverLength, Prompter, Tokens
from remora.reading.shown import PictureView, Span, Token, View
from remora.reading.truncation import SILENT, Unfit
from remora.token_ids import IGNORE, IMAGE

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for an incomplete character."""
Opener = Callable[[], Image.Image]


@dataclass(frozen=True)
class Reader:
    """How samples are read: by a stage, or by a chosen template, tokenizer and encoder."""

    prompter: Prompter
    encode: Callable[[Sample], Tokens | Unfit]
    """Raises DataError where training would stop."""
    encoder: Vision | None
    aspect: Aspect
    max_length: int


def stage_reader(data: StageData) -> Reader:
    """Reads as a stage does, by its `encode`, which cuts and drops."""
    return Reader(data.prompter, data.encode, data.encoder, data.stage.aspect, data.max_length)


def free_reader(prompter: Prompter, encoder: Vision | None, aspect: Aspect, max_length: int) -> Reader:
    """Reads as a stage with these settings would; longer conversations are cut."""

    def encode(sample: Sample) -> Tokens | Unfit:
        try:
            tokens = prompter.encode(sample.turns, max_length)
        except OverLength as e:
            return Unfit("over-length-first", str(e))
        return tokens if tokens.size.supervised else Unfit("no-supervised-token", SILENT)

    return Reader(prompter, encode, encoder, aspect, max_length)


def view(data: StageData, position: int, names: Sequence[str]) -> View:
    """The sample at a position in a stage's order; `names` are the names of the mixture's datasets."""
    dataset, index = data.order[position]
    source = data.samples[dataset]
    sample = source[index]
    place = View(position, names[dataset], source.number(index), sample.id)
    return rendered(stage_reader(data), sample, [(str(p), p.open) for p in sample.images], place)


def rendered(reader: Reader, sample: Sample, pictures: Sequence[tuple[str, Opener]], place: View) -> View:
    """`place` with its sample filled in: encoded, cut or dropped, its pictures preprocessed."""
    prompter = reader.prompter
    tokens, dropped, problem = Tokens([], []), "", ""
    try:
        encoded = reader.encode(sample)
        if isinstance(encoded, Unfit):
            dropped = encoded.reason
        else:
            tokens = encoded
    except DataError as e:  # over_length: fail, or a picture in a text-only stage
        problem = str(e)
    kept = _rounds(prompter, sample.turns, len(tokens.ids))
    return replace(
        place,
        turns=sample.turns,
        pictures=tuple(
            picture_view(name, opened, reader.encoder, reader.aspect, i < tokens.images)
            for i, (name, opened) in enumerate(pictures)
        ),
        spans=spans(prompter, tokens),
        tokens=len(tokens.ids),
        supervised=sum(label != IGNORE for label in tokens.labels),
        image_tokens=tokens.ids.count(IMAGE),
        max_length=reader.max_length,
        whole=len(prompter.encode(sample.turns).ids),
        rounds=(kept, len(sample.turns) // 2),
        dropped=dropped,
        problems=(problem,) if problem else (),
    )


def _rounds(prompter: Prompter, turns: Sequence[Turn], length: int) -> int:
    """Number of question-answer rounds that have `length` tokens."""
    before = len(turns) % 2  # a system message
    cut = ((n, turns[: before + 2 * n]) for n in range(len(turns) // 2, 0, -1))
    return next((n for n, kept in cut if len(prompter.encode(kept).ids) == length), 0)


def lengths(data: StageData, dataset: int, count: int) -> list[int]:
    """Tokens of the first `count` samples of a dataset, before cutting."""
    samples = data.samples[dataset]
    return [len(data.prompter.encode(samples[i].turns).ids) for i in range(min(count, len(samples)))]


def spans(prompter: Prompter, tokens: Tokens) -> tuple[Span, ...]:
    """The tokens of a sample in spans of one kind and one label. Their texts, joined, are the decoded conversation."""
    special = set(prompter.special.values())
    found: list[Span] = []
    for kind, supervised, start, end in _runs(tokens, special, prompter.image_tokens):
        ids = tokens.ids[start:end]
        if kind == "image":
            pieces = [Token(tuple(ids), "")]
        elif kind == "special":
            pieces = [Token((i,), str(prompter.tokenizer.convert_ids_to_tokens(i))) for i in ids]
        else:
            # A span may begin in the middle of text: the token before it decides whether its first space is kept.
            before = tokens.ids[start - 1 : start] if start and tokens.ids[start - 1] != IMAGE else []
            pieces = list(_pieces(prompter, before, ids))
        found.append(Span(kind, supervised, tuple(pieces)))
    return tuple(found)


def _runs(
    tokens: Tokens, special: set[int], image_tokens: int
) -> Iterator[tuple[Literal["words", "special", "image"], bool, int, int]]:
    """(kind, supervised, start, end) of every span."""
    at, ids, labels = 0, tokens.ids, tokens.labels
    while at < len(ids):
        if ids[at] == IMAGE:
            yield "image", False, at, at + image_tokens
            at += image_tokens
            continue
        start, kind, supervised = at, ids[at] in special, labels[at] != IGNORE
        while at < len(ids) and ids[at] != IMAGE and (ids[at] in special, labels[at] != IGNORE) == (kind, supervised):
            at += 1
        yield "special" if kind else "words", supervised, start, at


def _pieces(prompter: Prompter, before: Sequence[int], ids: Sequence[int]) -> Iterator[Token]:
    """Each token with its text. Bytes of one character are joined, with all of their ids."""
    known, held = list(before), []
    for number, token in enumerate(ids):
        held.append(token)
        text = _decode(prompter, [*known, *held])[len(_decode(prompter, known)) :]
        if (text and not text.endswith(BROKEN)) or number == len(ids) - 1:
            yield Token(tuple(held), text)
            known, held = held, []


def _decode(prompter: Prompter, ids: list[int]) -> str:
    return str(prompter.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def picture_view(name: str, opened: Opener, encoder: Vision | None, aspect: Aspect, shown: bool = True) -> PictureView:
    """A picture and the encoder's version of it, or why it cannot be read."""
    try:
        original = opened()
    except DataError as e:
        return PictureView(name, None, None, shown, str(e))
    seen = as_seen(preprocess(original, encoder, aspect), encoder) if encoder and shown else None
    return PictureView(name, original, seen, shown)


def as_seen(pixels: Tensor, encoder: Vision) -> Image.Image:
    """Pixels [3, S, S] from `preprocess` as a picture, by undoing the normalisation."""
    mean, std = (np.array(v, np.float64)[:, None, None] for v in (encoder.mean, encoder.std))
    shades = np.rint((pixels.numpy().astype(np.float64) * std + mean) * 255)
    return Image.fromarray(shades.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
