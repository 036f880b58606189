"""A bundle's card and bill of materials as files: `<run folder>/cards/<bundle>/`, or those of an export."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from remora.files import disk_errors, write_atomic
from remora.inference.bundle import weights_digest
from remora.pipeline.origin.explanation import Explanation
from remora.reporting.model_card.bom import BOM, bill_of_materials
from remora.reporting.model_card.card import README, model_card

FOLDER = "cards"
NEEDS = "cyclonedx"
INSTALL = "pip install 'remora[bom]'"


def papers(found: Explanation, layout: str = "remora") -> dict[str, str]:
    """File -> its text: README.md, and bom.cdx.json where the library is installed that makes it."""
    made = {README: model_card(found, layout)}
    return made | {BOM: bill_of_materials(found)} if has_bom() else made


def has_bom() -> bool:
    """Whether what a bill of materials is made with is installed."""
    return find_spec(NEEDS) is not None


def write_papers(made: Mapping[str, str], folder: Path) -> None:
    """Raises:
    StoreError: the disk is full or read-only.
    """
    with disk_errors(folder):
        for name, text in made.items():
            write_atomic(folder / name, text)


def cards_of(runs: Path, bundle: Path) -> Path:
    """The folder of a bundle's papers. They are beside it, since a bundle's files never change and figures do. Bundles
    elsewhere may share a name."""
    mine = bundle.parent == runs / "bundles"
    return runs / FOLDER / (bundle.name if mine else f"{bundle.name}-{weights_digest(bundle)[:12]}")
