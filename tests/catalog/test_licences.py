"""Licences: every name that an entry gives is known, and what a model may be used for follows from all that it is
made of."""

from __future__ import annotations

import pytest

from remora import catalog
from remora.catalog import LLM, DatasetEntry, LicenceLine, Vision
from remora.runs import resolve_stages
from remora.runs.licences import ORDER, Permission, best_allowed, permission, permission_of
from remora.spec import Variant

LINES = [(n, e.licence) for kind in (LLM, Vision, DatasetEntry) for n, e in catalog.listed(kind).items()]


@pytest.mark.parametrize(("name", "line"), LINES, ids=[name for name, _ in LINES])
def test_every_licence_of_an_entry_is_in_the_catalog(name: str, line: str | None) -> None:
    said = LicenceLine.of(line)
    for each in said.names:
        assert catalog.licence(each).url.startswith("https://")
    assert said.names or said.open or line is None


def test_a_line_is_read_as_it_is_documented() -> None:
    assert LicenceLine.of("MIT") == LicenceLine(("MIT",))
    assert LicenceLine.of("CC-BY-4.0 (the text; each picture set has its own)") == LicenceLine(
        ("CC-BY-4.0",), "the text", "each picture set has its own"
    )
    assert LicenceLine.of("MIT, and CC-BY-SA-4.0 (code and pictures)").names == ("MIT", "CC-BY-SA-4.0")
    assert LicenceLine.of("other (the hub's word; terms of its parts hold)") == LicenceLine(
        (), "the hub's word", "terms of its parts hold"
    )
    assert LicenceLine.of(None) == LicenceLine(())


@pytest.mark.parametrize(
    ("parts", "data", "use"),
    [
        ({"vision": "clip-l-336", "llm": "phi-2"}, [], "free"),
        ({"vision": "clip-l-336", "llm": "phi-2"}, ["demo-captions"], "conditions"),
        ({"vision": "clip-l-336", "llm": "gemma-2b"}, [], "conditions"),
        ({"vision": "clip-l-336", "llm": "gemma-2b"}, ["llava-mix-665k"], "open"),
        ({"vision": "clip-l-336", "llm": "minicpm-2b"}, ["llava-mix-665k"], "ask"),
        ({"vision": "clip-l-336", "llm": "minicpm-2b"}, ["sharegpt4v-mix-665k"], "no"),
        ({"vision": "clip-l-336", "llm": "stablelm-2-1.6b"}, [], "no"),
        ({"vision": "clip-l-336", "llm": "phi-2"}, ["my own.json"], "open"),
        ({"vision": "clip-l-336", "llm": "phi-2"}, ["wizardlm-evol-70k"], "open"),
    ],
)
def test_the_narrowest_licence_decides(parts: dict[str, str], data: list[str], use: str) -> None:
    found = permission_of(parts, [d for d in data if d != "my own.json"], [d for d in data if d == "my own.json"])
    assert found.use == use and found.commercial == (ORDER.index(found.use) < ORDER.index("ask"))
    assert bool(found.forbids) == (not found.commercial)


def test_what_forbids_and_what_is_open_is_named() -> None:
    found = permission_of({"vision": "clip-l-336", "llm": "stablelm-2-1.6b"}, ["sharegpt4v-mix-665k"], ["x.json"])
    assert found.forbids == (
        "llm stablelm-2-1.6b: Stability AI Non-Commercial Research Community License",
        "data sharegpt4v-mix-665k: CC-BY-NC-4.0",
    )
    assert found.open == (
        "data sharegpt4v-mix-665k: each picture set has its own",
        "data x.json: your own data: its terms are yours to know",
    )
    alike = permission_of({}, ["demo-captions"])
    assert alike.share_alike == ("data demo-captions: CC-BY-SA-4.0",)


def test_a_variants_permission_has_the_data_of_all_its_stages() -> None:
    variant = Variant(vision="clip-l-336", connector="mlp2x_gelu", llm="demo-2m", recipe="share")
    found = permission(variant, resolve_stages(variant))
    data = {e.dataset for stage in resolve_stages(variant) for e in stage.mixture}
    assert {each.what for each in found.of} == {"vision clip-l-336", "llm demo-2m", *(f"data {d}" for d in data)}
    assert found.use == "no" and any("CC-BY-NC" in line for line in found.forbids)


def test_the_best_that_is_allowed_is_the_first_that_nothing_forbids() -> None:
    uses = {"a": "no", "b": "ask", "c": "open", "d": "free"}
    ranked = [(name, Permission(use, ())) for name, use in uses.items()]
    assert best_allowed(ranked) == "c"
    assert best_allowed(ranked[:2]) is None
