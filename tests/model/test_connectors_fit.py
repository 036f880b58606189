"""What fits, known from the entries: against the modules themselves, and the table that the documentation shows."""

from __future__ import annotations

from math import isqrt
from pathlib import Path

import pytest
import torch

from remora import catalog
from remora.catalog import Connector
from remora.catalog.compatibility import check_fit, check_width, grid_side, tokens_out
from remora.errors import SpecError
from remora.model.connectors import build_connector

ENTRIES = catalog.entries("connectors")
COUNTS = (9, 196, 256, 576, 729, 1024, 1369)
"""Tokens of the demo's encoder, ViT-B/16 at 224, CLIP-L at 224 and 336, SigLIP at 384, SigLIP at 512, DINOv2 at 518."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "connectors.md"


@pytest.mark.sampled(25)
@pytest.mark.parametrize("tokens", COUNTS)
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize(("width", "hidden"), [(1024, 2048), (1152, 1152)])
def test_a_pair_is_refused_or_its_module_makes_what_was_said(name, tokens, width, hidden):
    entry = ENTRIES[name]
    try:
        check_fit(entry, tokens, width, hidden)
    except SpecError as e:
        known, named = str(e).split("; these fit: ")
        assert "\n" not in str(e) and named.endswith("; see: remora catalog connectors")
        fits = named.split(";")[0].split(", ")
        assert name not in fits
        for other in fits:
            check_fit(ENTRIES[other], tokens, width, hidden)
        assert (str(width) if entry.kind == "identity" else f"{tokens} ") in known
        return
    with torch.device("meta"):  # shapes without arithmetic
        out = build_connector(entry, width, hidden)(torch.zeros(2, tokens, width))
    assert out.shape == (2, tokens_out(entry, tokens), hidden)


def test_what_is_refused_is_what_should_be():
    refused = {(name, tokens) for name in ENTRIES for tokens in COUNTS if not _fits(ENTRIES[name], tokens)}
    assert refused == {
        *(("ldp", n) for n in (9, 729, 1369)),
        ("ldpv2", 9),
        *(("pixel-shuffle-2", n) for n in (9, 729, 1369)),
        *(("pixel-shuffle-3", n) for n in (196, 256, 1024, 1369)),
        *(("pixel-shuffle-4", n) for n in (9, 196, 729, 1369)),
    }


def _fits(entry, tokens):
    try:
        tokens_out(entry, tokens)
    except SpecError:
        return False
    return True


@pytest.mark.parametrize("kind", ["ldp", "ldpv2", "pixel-shuffle"])
def test_a_grid_must_be_square(kind):
    own = {"ldpv2": {"grid": 2}, "pixel-shuffle": {"factor": 2}}.get(kind, {})
    entry = Connector(short="t", source="t", kind=kind, **own)
    with pytest.raises(SpecError, match=f"{kind} reads a square grid, and 20 tokens are not a square"):
        tokens_out(entry, 20)
    with pytest.raises(SpecError, match="20 is not a square"):
        build_connector(entry, 3, 4)(torch.zeros(1, 20, 3))
    assert grid_side(25) == 5


def test_ldpv2_never_makes_more_tokens_than_it_gets():
    entry = ENTRIES["ldpv2"]
    assert [tokens_out(entry, side**2) for side in (12, 13, 27, 37)] == [144] * 4
    with pytest.raises(SpecError, match="averages to 12 x 12, and 121 tokens are only 11 x 11"):
        tokens_out(entry, 121)


def test_only_identity_minds_the_widths():
    for name, entry in ENTRIES.items():
        if name == "identity":
            with pytest.raises(SpecError, match="1152 channels on, and the language model reads 2560"):
                check_width(entry, 1152, 2560)
        else:
            check_width(entry, 1152, 2560)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"kind": "mlp"}, "mlp needs depth"),
        ({"kind": "ldp", "depth": 2}, "ldp has no depth"),
        ({"kind": "ldpv2", "factor": 2}, "ldpv2 has no factor"),
        ({"kind": "ldpv2"}, "ldpv2 needs grid"),
        ({"kind": "pixel-shuffle"}, "pixel-shuffle needs factor"),
        ({"kind": "qformer", "depth": 1, "queries": 2}, "qformer needs heads"),
        ({"kind": "identity", "grid": 2}, "identity has no grid"),
        ({"kind": "pixel-shuffle", "factor": 0}, "greater than or equal to 1"),
    ],
)
def test_entries_without_their_shape_are_refused(facts, why):
    with pytest.raises(ValueError, match=why):
        Connector(short="t", source="t", **facts)


def why_not(entry: Connector, side: int) -> str:
    divisor = 2 if entry.kind == "ldp" else entry.factor
    return f"no: {side} < {entry.grid}" if entry.grid else f"no: {side} % {divisor} = {side % divisor}"


def table() -> list[str]:
    """The lines of the documentation's table: tokens out, or the side of the grid that does not fit."""
    lines = ["| connector | " + " | ".join(f"{n} ({isqrt(n)} x {isqrt(n)})" for n in COUNTS) + " |"]
    lines.append("| --- |" + " --- |" * len(COUNTS))
    for name, entry in ENTRIES.items():
        cells = [str(tokens_out(entry, n)) if _fits(entry, n) else why_not(entry, isqrt(n)) for n in COUNTS]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def test_the_documents_table_is_what_the_rules_say():
    shown = DOCUMENT.read_text()
    assert "\n".join(table()) in shown, "docs/connectors.md should have:\n" + "\n".join(table())


def test_the_document_names_every_kind():
    assert all(f"`{entry.kind}`" in DOCUMENT.read_text() for entry in ENTRIES.values())
