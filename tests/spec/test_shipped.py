"""Every spec that ships resolves."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora.cli import main

ROOT = Path(__file__).parents[2]
CONDENSATIONS = ("condense", "bunny-coreset")
"""Which have tests/spec/test_condensation_spec.py."""
SPECS = sorted(p for folder in ("jobs", "tune") for p in (ROOT / folder).glob("*.yaml") if p.stem not in CONDENSATIONS)
"""Variants and spaces."""


@pytest.mark.sampled(2)
@pytest.mark.parametrize("spec", SPECS, ids=[p.name for p in SPECS])
def test_a_shipped_spec_renders(spec, capsys):
    main(["render", str(spec)])
    assert "stages:" in capsys.readouterr().out
