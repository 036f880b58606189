"""Cards and bills of materials, kept up to date by the commands that make or measure a bundle."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from remora import tracking
from remora.pipeline.origin.explanation import explain
from remora.reporting.model_card.papers import cards_of, papers, write_papers


def card_line(runs: Path, bundle: Path) -> str:
    """Write a bundle's papers; where they are, or why there are none."""
    return keep_cards(runs, [(bundle, None)]) or f"model card and bill of materials: {cards_of(runs, bundle)}"


def keep_cards(runs: Path, bundles: Iterable[tuple[Path, str | None]]) -> str:
    """Write the papers of some bundles, and have them in MLflow, too; returns why one has none, or nothing.

    Args:
        bundles: Each with the key of its run in MLflow, if it has one.
    """
    problem = ""
    for bundle, key in bundles:
        folder = cards_of(runs, bundle)
        try:
            write_papers(papers(explain(bundle, runs, bundle.name, siblings=False)), folder)
        except Exception as e:  # noqa: BLE001 (whatever a card met, the model is done)
            problem = (
                f"no card of {bundle.name}: {e or type(e).__name__}; next: remora explain {bundle.name} --card DIR"
            )
            continue
        if key:
            tracking.Run.again(runs, key).note(files={"card": folder})
    return problem
