"""Answers a second and memory as a search's objectives: measured in a process of its own, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from remora.pipeline import answer_speed
from remora.pipeline.answer_speed import FILE, AnswerSpeed
from support.rates import ended, write_space

SAID = AnswerSpeed(way=answer_speed.SPEED, answers=4, tokens=9, seconds=0.5, clock="CPU", memory=0.5, device="x")


def test_what_was_measured_in_another_way_or_is_torn_counts_as_not_measured(tmp_path: Path) -> None:
    file = tmp_path / FILE
    for text in ("", "[]", json.dumps({**SAID, "way": 0}), json.dumps({"way": answer_speed.SPEED}), json.dumps(SAID)):
        assert answer_speed.read(tmp_path) is None
        file.write_text(text)
    assert answer_speed.read(tmp_path) == SAID
    assert answer_speed.figures(SAID) == {"answers_per_second": 8.0, "answering_memory": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["--local", pytest.param("", marks=[pytest.mark.ray, pytest.mark.faults])], ids=["local", "ray"]
)
def test_a_search_measures_each_variant_once_and_shows_whom_no_other_beats(tmp_path: Path, where: str) -> None:
    objectives = [str(tmp_path / "colours.yaml"), "answers_per_second", "answering_memory", "parameters"]
    axes = {"connector": ["linear", "mlp2x_gelu"]}
    space = write_space(tmp_path, objectives=objectives, rule={"kind": "none"}, axes={}, **axes)
    said = ended(space, where=where)
    assert "Pareto set of colours (max), answers_per_second (max), answering_memory (min), parameters (min)" in said
    files = sorted((tmp_path / "r" / "scores").glob(f"*/{FILE}"))
    found = [json.loads(file.read_text()) for file in files]
    assert [(f["answers"], f["clock"]) for f in found] == [(4, "CPU")] * 2
    assert all(0.1 < f["memory"] < 8 and f["seconds"] > 0 and f["device"] for f in found)
    result = json.loads((tmp_path / "r" / "searches" / "rates.json").read_text())
    shown = {v["name"]: v["figures"] for v in result["pareto"]["variants"]}
    assert {f["answers_per_second"] for f in shown.values()} == {f["answers"] / f["seconds"] for f in found}
    ended(space, where=where)
    assert [json.loads(file.read_text()) for file in files] == found, "measured again"
    page = (tmp_path / "r" / "searches" / "rates" / "report" / "report.html").read_text()
    assert 'id="pareto"' in page and "answers per second" in page
