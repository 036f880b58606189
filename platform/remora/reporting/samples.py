"""Samples as a model reads them, in the terminal and as an HTML page.

A dataset's text is untrusted: in the terminal control characters are spelt out and markup is not interpreted; on the
page jinja2 escapes it, and the page loads nothing.
"""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.text import Text

from remora.files import write_atomic
from remora.reading.shown import PictureView, Span, View
from remora.reporting.escaped import templates

TEMPLATE = "samples.html.j2"
SIDE = 24
"""A picture's width in the terminal, in characters; its height is half, because one holds two pixels."""
THUMBNAIL = 448
"""Longest side of an original on the page, in pixels; larger ones are shrunk."""
BINS = 24
TRAINED = Style(color="green", underline=True)
SPECIAL = Style(color="magenta", bold=True)
PICTURE = Style(color="cyan", bold=True)
FAINT = Style(dim=True)
WRONG = Style(color="red", bold=True)


@dataclass(frozen=True)
class Section:
    """A stage's samples, or a dataset's."""

    title: str
    facts: Sequence[str]
    views: Sequence[View]
    lengths: Mapping[str, Sequence[int]]
    """Dataset -> tokens of its first samples, before anything is cut."""
    max_length: int | None


def visible(text: str) -> str:
    """Text with terminal control and bidi characters spelt out; a line end stays, after its symbol."""
    return "".join("⏎\n" if c == "\n" else _spelt(c) if _steers(c) else c for c in text)


def _steers(character: str) -> bool:
    category = unicodedata.category(character)
    return category == "Cc" or unicodedata.bidirectional(character) in BIDIRECTIONAL or category == "Cs"


BIDIRECTIONAL = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def _spelt(character: str) -> str:
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else f"<U+{code:04X}>"


def lines(shown: View) -> list[str]:
    """A sample's facts: its lengths, what was cut, why it was dropped."""
    out = []
    if shown.spans:
        per_cent = 100 * shown.supervised / shown.tokens
        out.append(
            f"{shown.tokens:,} of {shown.max_length:,} tokens, {shown.supervised:,} supervised ({per_cent:.0f}%)"
        )
        if shown.image_tokens:
            out[0] += f", {shown.image_tokens:,} of pictures"
    left, rounds = shown.rounds
    if shown.spans and left < rounds:
        which = f"round {rounds}" if left == rounds - 1 else f"rounds {left + 1} to {rounds}"
        out.append(f"cut: {which} of {rounds} left out; the whole has {shown.whole:,} tokens")
    if shown.dropped:
        out.append(f"dropped, nothing of it is learnt: {shown.dropped}")
    return out + [f"a training run stops here: {problem}" for problem in shown.problems]


def picture_line(picture: PictureView) -> str:
    """`…/cats/1.jpg, 640 x 480 -> 336 x 336`."""
    if picture.original is None:
        return f"{tail(picture.name)}: {visible(picture.problem)}"
    size = f"{picture.original.width} x {picture.original.height}"
    if picture.seen:
        size += f" → {picture.seen.width} x {picture.seen.height}"
    return f"{tail(picture.name)}, {size}" + ("" if picture.shown else ", not shown: its round was left out")


def tail(name: str) -> str:
    """The last two components of a path."""
    steps = visible(name).split("/")
    return visible(name) if len(steps) < 4 else "…/" + "/".join(steps[-2:])


def section_as_json(section: Section) -> dict[str, object]:
    """A section with its samples, texts as they are."""
    return {"title": section.title, "facts": list(section.facts), "samples": [_as_json(v) for v in section.views]}


def _as_json(shown: View) -> dict[str, object]:
    pictures = [
        {
            "name": p.name,
            "size": _size(p.original),
            "seen": _size(p.seen),
            "shown": p.shown,
            "problem": p.problem or None,
        }
        for p in shown.pictures
    ]
    spans = [
        {"kind": s.kind, "supervised": s.supervised, "text": s.text, "ids": [i for t in s.tokens for i in t.ids]}
        for s in shown.spans
    ]
    return {
        "position": shown.position,
        "dataset": shown.dataset,
        "record": shown.record,
        "id": shown.id,
        "tokens": shown.tokens,
        "supervised": shown.supervised,
        "image_tokens": shown.image_tokens,
        "max_length": shown.max_length,
        "tokens_before_cut": shown.whole,
        "rounds": {"kept": shown.rounds[0], "of": shown.rounds[1]},
        "turns": [{"role": t.role, "text": t.text} for t in shown.turns],
        "pictures": pictures,
        "spans": spans,
        "dropped": shown.dropped or None,
        "problems": list(shown.problems),
    }


def _size(picture: Image.Image | None) -> list[int] | None:
    return list(picture.size) if picture else None


# The terminal.


def print_sections(console: Console, sections: Sequence[Section], ids: bool = False) -> None:
    """Print every sample as text: colours and small pictures on a terminal, ⟦ ⟧ and ⟨ ⟩ elsewhere.

    Output to a file or a pipe is not wrapped, so that it can be searched.
    """
    colours = console.is_terminal
    for section in sections:
        console.rule(Text(visible(section.title), "bold"), align="left", characters="─" if colours else "=")
        facts = Text(visible(" · ".join(section.facts)), FAINT)
        for part in (facts, *(_card(shown, colours, ids) for shown in section.views)):
            console.print(part, highlight=False, soft_wrap=not colours)
            console.print()
    if any(v.spans for s in sections for v in s.views):
        console.print(_legend(colours), highlight=False)


def _legend(colours: bool) -> Text:
    marks = ("supervised", TRAINED), ("special token", SPECIAL), ("picture", PICTURE)
    if colours:
        return Text("  ").join(Text(*mark) for mark in marks)
    return Text("⟦supervised⟧  ⟨special token⟩  <image × positions: picture>")


def _card(shown: View, colours: bool, ids: bool) -> RenderableType:
    place = f"{shown.position} · {visible(shown.dataset)} record {shown.record}"
    if shown.id:
        place += f" · id {visible(shown.id)}"
    body: list[RenderableType] = [Text(place, "bold")]
    if shown.spans:
        body.append(_prompt(shown, colours, ids))
    else:
        pictures = iter(shown.pictures)
        for turn in shown.turns:
            marks = "".join(f"<image {tail(p.name)}> " for p, _ in zip(pictures, range(turn.images), strict=False))
            who = {"user": "question", "assistant": "answer"}.get(turn.role, turn.role)
            body.append(Text.assemble((f"{who}: ", FAINT), (marks, PICTURE), visible(turn.text)))
    for line in lines(shown):
        wrong = shown.problems or shown.dropped or line.startswith("cut")
        body.append(Text(visible(line), WRONG if wrong else FAINT))
    for picture in shown.pictures:
        if colours and picture.shown and (image := picture.seen or picture.original):
            body += [] if shown.spans else [Text(picture_line(picture), PICTURE)]
            body.append(half_blocks(image))
        elif not (shown.spans and picture.shown and picture.original):  # that one is named in the prompt
            body.append(Text(picture_line(picture), FAINT if picture.original else WRONG))
    return Group(*body)


def _prompt(shown: View, colours: bool, ids: bool) -> Text:
    out, supervised = Text(), False
    for span, picture in numbered(shown):
        if span.supervised != supervised and not colours:
            out.append("⟦" if span.supervised else "⟧")
        supervised = span.supervised
        if picture:
            out.append(f"<image × {len(span.tokens[0].ids)}: {picture_line(picture)}>", PICTURE)
            continue
        style = Style.combine([TRAINED if supervised else Style(), SPECIAL if span.kind == "special" else Style()])
        for token in span.tokens:
            text = visible(token.text)
            out.append(text if colours or span.kind == "words" else f"⟨{text}⟩", style)
            if ids:
                out.append(f"[{','.join(map(str, token.ids))}]", FAINT)
    return out.append("⟧") if supervised and not colours else out


def half_blocks(image: Image.Image) -> Text:
    """A picture of SIDE columns: every character is two pixels, the upper in front of the lower."""
    scale = SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    height += height % 2
    small = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
    rows = np.asarray(small).tolist()
    out = Text()
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        for (r, g, b), (s, h, c) in zip(upper, lower, strict=True):
            out.append("▀", f"rgb({r},{g},{b}) on rgb({s},{h},{c})")
        out.append("\n")
    out.rstrip()
    return out


# The page.


def write_page(file: Path, target: str, sections: Sequence[Section]) -> None:
    """Write one self-contained HTML file: no script, nothing from a network."""
    environment = templates(Path(__file__).parent)
    environment.filters |= {"visible": visible, "tail": tail, "data_url": data_url}
    environment.globals |= {"lines": lines, "picture_line": picture_line, "histogram": histogram, "numbered": numbered}
    write_atomic(file, environment.get_template(TEMPLATE).render(target=target, sections=sections))


def numbered(shown: View) -> Iterator[tuple[Span, PictureView | None]]:
    """Every span of a prompt; a picture's span with its picture."""
    pictures = iter(shown.pictures)
    return ((span, next(pictures) if span.kind == "image" else None) for span in shown.spans)


def data_url(image: Image.Image) -> str:
    """A picture as a PNG data URL, no larger than the page shows it."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@dataclass(frozen=True)
class Bin:
    """Samples of `start` up to `end` tokens, and their bar's height relative to the highest."""

    start: int
    end: int
    count: int
    height: float
    over: bool
    """Whether they are longer than the stage allows."""


def histogram(found: Sequence[int], max_length: int) -> list[Bin]:
    """Counts of lengths in equal bins, from 1 to the longest."""
    step = -(-max(found) // BINS)
    counts = [0] * (1 + (max(found) - 1) // step)
    for length in found:
        counts[(length - 1) // step] += 1
    return [Bin(i * step + 1, (i + 1) * step, n, n / max(counts), i * step >= max_length) for i, n in enumerate(counts)]
