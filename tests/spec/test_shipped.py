"""Every spec that ships resolves."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora.cli import main

ROOT = Path(__file__).parents[2]
SPECS = sorted(p for folder in ("jobs", "tune") for p in (ROOT / folder).glob("*.yaml") if p.stem != "condense")
"""Variants and spaces; the condensation has tests/spec/test_condensation_spec.py."""


@pytest.mark.parametrize("spec", SPECS, ids=[p.name for p in SPECS])
def test_a_shipped_spec_renders(spec, capsys):
    main(["render", str(spec)])
    assert "stages:" in capsys.readouterr().out
