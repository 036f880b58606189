"""A condensation's YAML: defaults are Bunny's, and misfits are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora import catalog
from remora.condense.embedding import compares_texts
from remora.errors import SpecError
from remora.spec import Condensation, load, validate

SHIPPED = Path(__file__).parents[2] / "jobs" / "condense.yaml"
LEAST = {"name": "x", "source": {"path": "a.json"}, "encoder": "clip-l-224", "clusters": {"count": 10}}


def test_the_shipped_spec_names_what_the_catalog_has():
    spec = load(Condensation, SHIPPED)
    assert spec.source and spec.source.dataset and catalog.dataset(spec.source.dataset)
    assert spec.encoder and compares_texts(catalog.vision(spec.encoder.model))


def test_bunnys_own_coreset_is_its_defaults_on_embeddings():
    spec = load(Condensation, SHIPPED.with_name("bunny-coreset.yaml"))
    given = {"embeddings", "clusters", "sample"}
    plain = {"name": "bunny-laion-coreset", **spec.model_dump(include=given)}
    assert spec == validate(Condensation, plain, "x.yaml") and spec.sample == 2_000_000


def test_the_defaults_are_bunnys():
    spec = validate(Condensation, LEAST, "x.yaml")
    assert (spec.duplicate, spec.text_rank, spec.centroid_rank, spec.sample) == (0.86, (0.4, 0.6), (0.15, 0.35), None)
    assert spec.encoder and spec.encoder.model == "clip-l-224"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_ranks": [0, 1]}, "unknown key 'text_ranks'; did you mean 'text_rank'?"),
        ({"text_rank": [0.6, 0.4]}, "ranks go from 0 (the most similar) to 1, lower first; found 0.6 to 0.4"),
        ({"centroid_rank": [0.5, 1.5]}, "found 0.5 to 1.5"),
        ({"duplicate": 1.2}, "must be 1 or less"),
        ({"embeddings": {"images": "e"}}, "give either encoder"),
        ({"encoder": None}, "give either encoder"),
        ({"source": None}, "an encoder needs a source"),
        ({"source": {"path": "a.json", "weight": 0.5}}, "source has weight 0.5; a weight belongs to the mixture"),
        ({"encoder": None, "embeddings": {"images": "e"}}, "text_rank needs embeddings.texts"),
        ({"clusters": {"count": 0}}, "clusters.count"),
        ({"name": "../up"}, "name"),
    ],
)
def test_what_does_not_fit_is_told(changes, message):
    with pytest.raises(SpecError) as e:
        validate(Condensation, LEAST | changes, "x.yaml")
    assert message in str(e.value) and "\n" not in str(e.value)


def test_embeddings_alone_are_enough():
    facts = {"name": "x", "embeddings": {"images": "e"}, "clusters": {"count": 9}, "text_rank": None}
    assert validate(Condensation, facts, "x.yaml").source is None
