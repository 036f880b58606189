"""Short answers as the VQA scorers normalise them, and how far ten people agree with one.

Three published variants, with their differences kept:

- `vqa`: vqaEval.py of GT-Vision-Lab/VQA (a013f00). It leaves the text alone if all people give the same answer.
- `evalai`: EvalAIAnswerProcessor of LLaVA's m4c_evaluator.py (c121f04), which is mmf's: lower case first, possessives
  split off, commas and question marks removed.
- `vizwiz`: the VizWiz API's vqaEval.py: that of VQA, with typographic apostrophes in its contractions.

Their oddities are kept. The look-behind of the full stop's pattern is misspelt and never keeps a stop; and a flag is
passed as `re.sub`'s count, so only 32 stops are removed. vqaEval.py is Python 2, where `\\d` means 0 to 9; in Python 3,
as here, it means every digit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources

import yaml

MARKS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ("a", "an", "the")
COUNTED = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
NUMBERS = {"none": "0"} | {word: str(n) for n, word in enumerate(COUNTED)}
STOP = re.compile(r"\.(?!\d)")
STOPS = 32
THOUSANDS = re.compile(r"\d,\d")


@lru_cache(maxsize=1 << 16)
def vqa(text: str) -> str:
    return _words(_without_marks(plain(text)), _contractions("vqa"))


@lru_cache(maxsize=1 << 16)
def evalai(text: str) -> str:
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return _words(_without_marks(plain(text.strip())), _contractions("vqa"))


@lru_cache(maxsize=1 << 16)
def vizwiz(text: str) -> str:
    return _words(_without_marks(plain(text)), _contractions("vizwiz"))


def plain(text: str) -> str:
    """Line ends and tabs as spaces, stripped: all that vqaEval.py does if people agree."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def agreement(read: str, answers: Sequence[str], people: Sequence[object] | None = None) -> float:
    """The mean, leaving out one person at a time, of how many of the others say `read`, a third each and at most 1.

    `people` are the records that the answers are from: vqaEval.py leaves out every record equal to the one left out.
    """
    says = [answer == read for answer in answers]
    found = sum(says)
    scores = []
    for i, one in enumerate(says):
        left_out = 0 if not one else 1 if people is None else sum(p == people[i] for p in people)
        scores.append(min(1.0, (found - left_out) / 3))
    return sum(scores) / len(scores)


def _without_marks(text: str) -> str:
    """Remove a mark if it is next to a space anywhere, or if there is a comma in a number; else make it a space."""
    thousands = THOUSANDS.search(text) is not None
    found = text
    for mark in MARKS:
        if mark in text:
            goes = thousands or f"{mark} " in text or f" {mark}" in text
            found = found.replace(mark, "" if goes else " ")
    return STOP.sub("", found, count=STOPS)


def _words(text: str, contractions: Mapping[str, str]) -> str:
    numbered = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in numbered if word not in ARTICLES)


@cache
def _contractions(table: str) -> dict[str, str]:
    tables = yaml.safe_load(
        resources.files("remora.evaluation").joinpath("short_answers.yaml").read_text(encoding="utf-8")
    )
    return tables[table]
