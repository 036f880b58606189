"""What a search maximises and minimises, and the Pareto set of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora.errors import SpecError
from remora.pipeline.objectives import check_objectives, objectives_of, pareto_set
from remora.reporting.results import pareto_lines
from remora.spec import Cluster, Objective, Space, load

SPACE = Path(__file__).parents[1] / "e2e" / "tiny.yaml"


def space(*said: object) -> Space:
    return load(Space, SPACE).model_copy(update={"objectives": tuple(Objective.model_validate(o) for o in said)})


def test_by_default_it_is_the_champions_benchmark() -> None:
    assert [(o.figure, o.direction) for o in objectives_of(space())] == [("easy-vqa-val", "max")]
    both = objectives_of(space("/my/colours.yaml", "parameters", {"figure": "steps", "direction": "max"}))
    assert [(o.figure, o.direction) for o in both] == [("colours", "max"), ("parameters", "min"), ("steps", "max")]
    measured = objectives_of(space("answers_per_second", "answering_memory"))
    assert [(o.figure, o.direction) for o in measured] == [("answers_per_second", "max"), ("answering_memory", "min")]


def test_a_figure_that_a_search_does_not_have_is_refused() -> None:
    check_objectives(space("easy-vqa", "parameters", "picture_tokens", "steps"))
    there = "there are its benchmarks: easy-vqa-val, easy-vqa, openmoji-unseen; and: parameters, picture_tokens, "
    there += "steps, answers_per_second, answering_memory$"
    with pytest.raises(SpecError, match=rf"'paramters' is no figure .*did you mean 'parameters'\?; {there}"):
        check_objectives(space("easy-vqa", "paramters"))
    with pytest.raises(SpecError, match=r"memory is that of GPUs, and cluster\.gpus_per_worker is 0"):
        check_objectives(space("memory"))
    check_objectives(space("memory").model_copy(update={"cluster": Cluster(gpus_per_worker=1)}))


FIGURES = {
    "small": {"gqa": 0.60, "parameters": 1.0e9},
    "worse": {"gqa": 0.59, "parameters": 1.5e9},
    "large": {"gqa": 0.62, "parameters": 3.0e9},
    "secret": {"parameters": 1.0e9},
}


def test_the_set_has_whom_no_other_beats() -> None:
    both = (Objective(figure="gqa"), Objective.model_validate("parameters"))
    assert pareto_set(both[:1], FIGURES) is None
    found = pareto_set(both, FIGURES)
    assert found and [(v.name, v.front) for v in found.variants] == [("large", True), ("small", True), ("worse", False)]
    assert found.without == ("secret",)
    assert list(pareto_lines(found.as_json())) == [
        "Pareto set of gqa (max), parameters (min): 2 of 3 variants; without one of the figures: secret",
        "  large: gqa 0.6200, parameters 3.0 B",
        "  small: gqa 0.6000, parameters 1.0 B",
    ]
