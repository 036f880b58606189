"""Stopping on a lead: what several looks spend, and how often equal models are told apart at any of them."""

from __future__ import annotations

import numpy as np
import pytest

from remora.evaluation import figures, ranking
from remora.evaluation.figures import mean
from remora.evaluation.stopping import lead_is_significant, spent

RUNGS = (0.1, 0.3, 1.0)


def asked(rng: np.random.Generator, right: list[float], n: int = 80) -> dict[str, figures.Figure]:
    return {str(i): mean((rng.random(n) < p).astype(float)) for i, p in enumerate(right)}


def stopped_at(rounds: list[dict[str, figures.Figure]]) -> float | None:
    for i, (share, found) in enumerate(zip(RUNGS, rounds, strict=True)):
        groups = [str(n) for n in range(len(found["0"][0].of))]
        if lead_is_significant(found, groups, share, RUNGS[:i]):
            return share
    return None


def test_all_of_alpha_is_spent_at_the_end() -> None:
    assert spent(0.0) == 0.0 and spent(1.0) == pytest.approx(0.05) and spent(1.0, 0.01) == pytest.approx(0.01)
    parts = np.diff([spent(s) for s in (0.0, 0.25, 0.5, 0.75, 1.0)])
    assert parts == pytest.approx([0.0179, 0.0131, 0.0103, 0.0086], abs=1e-4)


def test_equal_models_stop_a_search_as_seldom_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 searches of two equal models with three rungs 5% may stop (standard error 1.5%); if every rung had all of
    alpha, 10% do."""
    monkeypatch.setattr(ranking, "SWAPS", 1000)
    monkeypatch.setattr(ranking, "RESAMPLES", 2)
    rng = np.random.default_rng(0)
    found = [stopped_at([asked(rng, [0.7, 0.7]) for _ in RUNGS]) for _ in range(200)]
    assert sum(share is not None for share in found) / 200 <= 0.07


def test_a_clear_lead_stops_it_early_and_equals_never() -> None:
    rng = np.random.default_rng(1)
    clear = [asked(rng, [0.9, 0.4, 0.5], 300) for _ in RUNGS]
    assert stopped_at(clear) == 0.1
    tied = [{k: f[k] for k in ("0", "1")} | {"2": f["0"]} for f in clear]
    assert stopped_at(tied) is None, "two lead"
    assert not lead_is_significant({"0": clear[0]["0"]}, [str(i) for i in range(300)], 0.1), "nothing to lead"


@pytest.mark.parametrize(("share", "looked"), [(0.3, (0.3,)), (0.2, (0.1, 0.3)), (0.0, ()), (1.1, ())])
def test_looks_must_rise(share: float, looked: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="looks must rise from 0 to 1"):
        lead_is_significant({"0": mean([1])}, ["a"], share, looked)
