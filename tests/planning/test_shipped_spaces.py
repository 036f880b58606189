"""The papers' experiments in tune/: each plans to what it says, without any data, and is held against the catalog."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora import catalog
from remora.planning import plan_of
from remora.runs import Store, graph, read_survey, resolve_stages, variant_name
from remora.spec import Space, Variant
from remora.spec.search_blocks import Expect

TUNE = Path(__file__).parents[2] / "tune"
FILES = sorted(path for path in TUNE.glob("*.yaml") if not path.stem.startswith("demo"))
PARTS = ("vision", "connector", "llm")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(graph, "source_digest", lambda part, name: f"{part}/{name}")


@pytest.fixture(params=FILES, ids=[path.stem for path in FILES])
def file(request) -> Path:
    return request.param


def space_of(file: Path) -> tuple[Space, tuple[Variant, ...]]:
    survey = read_survey(file)
    assert survey.space is not None and not survey.pruned
    return survey.space, survey.variants


def test_it_costs_what_it_says(file, tmp_path):
    space, variants = space_of(file)
    plan = plan_of(variants, Store(tmp_path / "runs"))
    steps, samples = (sum(getattr(row, key) for row in plan.rows) for key in ("steps", "samples"))
    assert space.expect == Expect(variants=len(variants), stage_runs=plan.distinct, steps=steps, samples=samples)
    assert space.champion.benchmark in space.benchmarks and space.name == file.stem
    assert not list(tmp_path.iterdir())


def reported_as(variant: Variant) -> list[str]:
    """The published models that are this variant."""
    found = []
    for name in catalog.entries("published"):
        model = catalog.published(name)
        same = all(getattr(model, part) == getattr(variant, part) for part in PARTS) and not model.average
        if same and resolve_stages(model.variant(name)) == resolve_stages(variant):
            found.append(name)
    return found


def test_its_published_numbers_are_the_catalogs(file):
    space, variants = space_of(file)
    by_name = {variant_name(variant): variant for variant in variants}
    assert space.published.keys() <= by_name.keys()
    for name, cells in space.published.items():
        models = reported_as(by_name[name])
        assert models, name
        known = [catalog.scores(model) for model in models]
        for cell, score in cells.items():
            assert any(score in (s.merged.get(cell), *s.differing.get(cell, ())) for s in known), (name, cell)
    if "in the picture alone" not in head(file):  # of a figure some numbers are known, of a table all
        assert (
            "gives no numbers" in head(file)
            or "without numbers" in head(file)
            or space.published.keys() == set(by_name)
        )


def head(file: Path) -> str:
    """The comment at its top as one line."""
    lines = file.read_text().splitlines()
    return " ".join(line.lstrip("# ") for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])


def test_it_names_its_paper_and_how_to_run_it(file):
    assert "arXiv" in head(file) or "github.com" in head(file) or "README" in head(file)
    assert f"remora plan tune/{file.name}" in head(file) and f"remora search tune/{file.name} --smoke" in head(file)


def test_every_smoke_run_is_small_and_made_of_the_demos_parts(catalog_data):
    store = Store(catalog_data / "runs")
    store.data = catalog_data
    for file in FILES:
        survey = read_survey(file, smoke=True)
        space, plan = survey.space, plan_of(survey.variants, store)
        assert space is not None and space.name == f"{file.stem}-smoke" and not survey.pruned
        assert space.champion.benchmark in space.benchmarks
        parts = {name.partition("@")[0] for v in survey.variants for name in (v.vision, v.llm)}
        assert parts == {"efficientnet-lite0", "demo-2m"}
        assert len(survey.variants) <= 4 and max(row.steps for row in plan.rows) <= 20, file.name
        assert not plan.missing and {row.state for row in plan.rows} == {"to train"}
