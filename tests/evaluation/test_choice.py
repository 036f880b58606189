"""A choice among variants: by the headline figure, with its equals and what they cost."""

from __future__ import annotations

import json

import pytest

from remora.errors import DataError
from remora.evaluation.choice import choose
from remora.evaluation.report import Report, ScoredAnswer


def report(scores: list[float], ids: list[int] | None = None, **other) -> Report:
    """Two questions a picture."""
    where = ids or list(range(len(scores)))
    items = [ScoredAnswer(str(i), "x", "x", s, str(i // 2), "gold") for i, s in zip(where, scores, strict=True)]
    return Report("gqa", other.pop("protocol", "official"), {}, {}, items, [])


REPORTS = {
    "small": report([1.0] * 50 + [0.0] * 50),
    "large": report([1.0] * 52 + [0.0] * 48),
    "poor": report([1.0] * 5 + [0.0] * 95),
}
COSTS = {name: {"parameters": p, "picture_tokens": 9} for name, p in (("small", 1e6), ("large", 3e9), ("poor", 1.0))}


def test_the_best_is_chosen_unless_its_cheapest_equal_is_preferred() -> None:
    found = choose("gqa", REPORTS, COSTS)
    assert (found.chosen, found.cheapest, found.ranking.equals) == ("large", "small", ("small",))
    assert choose("gqa", REPORTS, COSTS, "cheapest").chosen == "small"


def test_what_is_kept_of_a_choice() -> None:
    kept = json.loads(json.dumps(choose("gqa", REPORTS, COSTS).as_json()))
    assert {k: kept[k] for k in ("benchmark", "metric", "n", "pictures", "prefer", "best", "equals", "cheapest")} == {
        "benchmark": "gqa", "metric": "accuracy", "n": 100, "pictures": 50, "prefer": "best", "best": "large",
        "equals": ["small"], "cheapest": "small",
    }  # fmt: skip
    assert [v["name"] for v in kept["variants"]] == ["large", "small", "poor"]
    large, small, poor = kept["variants"]
    assert (large["figure"], small["behind"], small["cost"]) == (52.0, 2.0, COSTS["small"])
    assert large["ci"][0] < 52 < large["ci"][1] and poor["p"] < 0.05 < small["p"] and poor["behind_ci"][0] > 0
    assert 0 < kept["expected_drop"] < 5


def test_equal_figures_keep_the_order_of_the_space() -> None:
    twins = {"b": REPORTS["small"], "a": REPORTS["small"]}
    found = choose("gqa", twins, {name: {"parameters": 1} for name in twins})
    assert (found.chosen, found.cheapest, found.ranking.expected_drop) == ("b", "b", 0.0)


def test_only_what_all_were_asked_decides() -> None:
    short = REPORTS | {"small": report([1.0] * 50, list(range(50)))}
    found = choose("gqa", short, COSTS)
    assert found.ranking.n == 50
    assert found.warnings == ("gqa: compared on the 50 questions that all 3 have, of 50 to 100",)


def test_what_cannot_be_compared_is_one_line() -> None:
    with pytest.raises(DataError, match="scored by different protocols, 'official' and 'other'") as caught:
        choose("gqa", REPORTS | {"poor": report([1.0] * 100, protocol="other")}, COSTS)
    assert "\n" not in str(caught.value)
