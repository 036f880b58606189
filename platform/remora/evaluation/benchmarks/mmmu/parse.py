"""Parse answers to MMMU and tell whether they are right, by the rules of its eval_utils.py (bb0b95a).

Their oddities are kept: `A. text` is not a letter, and "so" and "is" cut a sentence even at the end of a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

MARKS = (",", ".", "!", "?", ";", ":", "'")
SHAPES = ("({})", " {} ")
FEW_WORDS = 5
"""An answer with at most this many words is not searched for an option's text."""
SIGNS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""Words before an answer; in the last line also an equals sign."""
NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""Numbers with commas, with an exponent, plain."""

Read = str | float


def choose(answer: str, letters: Sequence[str], options: Mapping[str, str]) -> str:
    """The letter that an answer chooses: `(A)`, else a single A, else an option's text; of several the last.

    Without any it is empty; the official script then draws one of `letters`.
    """
    for mark in MARKS:  # one after the other, as the order decides what ".'" leaves
        answer = answer.strip(mark)
    answer = f" {answer} "
    for shape in SHAPES:
        if found := {c: place for c in letters if (place := answer.rfind(shape.format(c))) >= 0}:
            return max(found, key=lambda c: found[c])
    low = answer.lower()
    if len(answer.split()) > FEW_WORDS and (
        found := {c: place for c, text in options.items() if (place := low.rfind(text.lower())) >= 0}
    ):
        return max(found, key=lambda c: found[c])
    return ""


def read_open(answer: str) -> list[Read]:
    """The texts and numbers that an open answer may mean."""
    tails = _tails(answer.strip().strip(".").lower())
    numbers = [number for tail in tails for pattern in NUMBERS for number in pattern.findall(tail)]
    return list(dict.fromkeys(value for text in [*tails, *numbers] for value in normalised(text)))


def _tails(answer: str) -> list[str]:
    """The text after the signs of an answer, the shortest of each line; the whole answer if there are none."""
    lines = answer.split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        shortest = ""
        for sign in (*SIGNS, "=") if number == len(lines) else SIGNS:
            tail = line.rpartition(sign)[2].strip()
            if sign in line and (not shortest or len(tail) < len(shortest)):
                shortest = tail
        if shortest and shortest not in MARKS:
            found.append(shortest)
    return found or [answer]


def normalised(text: str) -> list[Read]:
    """A number to two decimals, or the text in lower case; a single character only next to a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]


def open_right(gold: Iterable[str], read: Iterable[Read]) -> bool:
    """Whether a right text is part of one that was read, or a number that was read is right."""
    right = [value for text in gold for value in normalised(text)]
    texts = [value for value in right if isinstance(value, str)]
    return any(any(t in value for t in texts) if isinstance(value, str) else value in right for value in read)
