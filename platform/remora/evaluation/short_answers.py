"""Answers of one word or phrase as the VQA scorers compare them, and how far ten people agree with one.

Three published variants, which differ on purpose here as they do there:

- `vqa`: vqaEval.py of GT-Vision-Lab/VQA (a013f00). It leaves the text alone where all people say the same.
- `evalai`: EvalAIAnswerProcessor of LLaVA's m4c_evaluator.py (c121f04), which is mmf's: lower case first, possessives
  apart, commas and question marks away.
- `vizwiz`: the VizWiz API's vqaEval.py: that of VQA, with typographic apostrophes in its contractions.

Their oddities are kept. The look-behind of the full stop's pattern is misspelt and never holds a stop back; and a flag
stands where `re.sub` takes a count, so only 32 stops go. vqaEval.py is Python 2, where `\\d` means 0 to 9; run by
Python 3, as here, it means every digit.
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
    """Lines' ends and tabs as spaces, none at the ends: all that vqaEval.py does where people are of one mind."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def agreement(read: str, answers: Sequence[str], people: Sequence[object] | None = None) -> float:
    """The mean, over leaving out one person each, of how many of the others say `read`, a third each and at most 1.

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
    """A mark goes if it stands next to a space anywhere, or if there is a comma in a number; else it is a space."""
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
