"""The three normalisers against what the published ones gave for the same texts.

tests/golden/words.json and the digests were written by vqaEval.py of GT-Vision-Lab/VQA a013f00 (its print statements
ported to Python 3), by EvalAIAnswerProcessor of LLaVA c121f04, and by the VizWiz API's vqaEval.py as TRI-ML's
vlm-evaluation d9f5896 has it, with the typographic apostrophes that its copy had lost.
"""

from __future__ import annotations

import hashlib
from random import Random

import pytest

from remora.evaluation.short_answers import agreement, evalai, vizwiz, vqa
from support.nasty_answers import WORDS, text

NORMALISERS = [vqa, evalai, vizwiz]


@pytest.mark.parametrize("column", range(3), ids=["vqa", "evalai", "vizwiz"])
def test_texts_are_normalised_as_the_published_scripts_do(column):
    found = [NORMALISERS[column](row[0]) for row in WORDS]
    assert found == [row[1 + column] for row in WORDS]


@pytest.mark.parametrize(
    ("normalise", "digest"),
    [(vqa, "ce98f62e5b0fa5ff"), (evalai, "536fb4ec446e579d"), (vizwiz, "aa5506d44e35becf")],
    ids=["vqa", "evalai", "vizwiz"],
)
def test_so_are_twenty_thousand_joined_texts(normalise, digest):
    rng = Random(20)
    found = "\0".join(normalise(text(rng)) for _ in range(20_000))
    assert hashlib.sha256(found.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize(("said", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_agreement_is_by_leaving_one_person_out(said, score):
    assert agreement("dog", ["dog"] * said + ["cat"] * (10 - said)) == pytest.approx(score)


def test_people_with_equal_records_are_left_out_together():
    assert agreement("dog", ["dog"] * 10, [{"answer": "dog"}] * 10) == 0
    assert agreement("dog", ["dog"] * 10, [{"id": i // 5} for i in range(10)]) == 1
    assert agreement("dog", ["dog"] * 4, [{"id": i // 2} for i in range(4)]) == pytest.approx(2 / 3)
