"""Two models on the same questions: what is compared, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from remora.errors import DataError
from remora.evaluation.compare import compare_reports
from remora.evaluation.report import Report, ScoredAnswer


def report(scores: list[float], **other) -> Report:
    items = [ScoredAnswer(str(i), "x", "x", s, str(i // 2), "gold", ("binary",)) for i, s in enumerate(scores)]
    made = Report("gqa", "official", {}, {}, items, [])
    return replace(made, **other)


A, B = [1.0] * 30 + [0.0] * 10, [1.0] * 10 + [0.0] * 30


def test_a_difference_is_real_when_chance_hardly_makes_it():
    found = compare_reports({"gqa": (report(A), report(B))})["gqa"]
    (figure,) = found.differences
    assert figure == "accuracy" and found.real(figure)
    d = found.differences[figure]
    assert (d.a, d.b) == (75.0, 25.0) and d.low > 0 and found.n == 40
    assert not compare_reports({"gqa": (report(A), report(A))})["gqa"].real("accuracy")


def test_the_order_of_items_does_not_matter():
    turned = report(B, items=report(B).items[::-1])
    assert compare_reports({"gqa": (report(A), turned)}) == compare_reports({"gqa": (report(A), report(B))})


def test_every_figure_is_adjusted_for_being_one_of_many():
    found = compare_reports({"gqa": (report(A), report(B))}, every_figure=True)["gqa"]
    assert set(found.differences) == {"accuracy", "accuracy.binary"}
    assert found.adjusted["accuracy"] == pytest.approx(2 * found.differences["accuracy"].p)


def test_questions_that_one_lacks_are_left_out_and_said():
    found = compare_reports({"gqa": (report(A), report(B[:20]))})["gqa"]
    assert found.n == 20 and found.warnings == ["gqa: compared on the 20 questions that both have, of 40 and 20"]


def test_questions_that_share_an_id_are_each_compared():
    one, other = (report(s, items=[replace(i, id="same") for i in report(s).items]) for s in (A, B))
    assert compare_reports({"gqa": (one, other)}) == compare_reports({"gqa": (report(A), report(B))})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "other"}, "scored by different protocols, 'official' and 'other'"),
        ({"judge": "gpt"}, "scored by different judges, None and 'gpt'"),
        ({"items": [replace(i, id=f"x{i.id}") for i in report(B).items]}, "no question in common"),
        ({"items": [replace(i, gold="new") for i in report(B).items]}, "question 0 has another right answer"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        compare_reports({"gqa": (report(A), report(B, **changes))})
    assert "\n" not in str(caught.value)
