"""Every composition of catalog parts: which ones make a model, and why the others do not."""

from __future__ import annotations

from itertools import product

from remora import catalog
from remora.catalog.compatibility import check_composition
from remora.errors import SpecError


def compositions() -> dict[tuple[str, str, str], tuple[int | None, str]]:
    """(vision, connector, llm) -> (embeddings per picture, ""), or (None, why not)."""
    found: dict[tuple[str, str, str], tuple[int | None, str]] = {}
    for names in product(*(catalog.entries(kind) for kind in ("vision", "connectors", "llm"))):
        vision, connector, llm = names
        try:
            embeddings = check_composition(catalog.vision(vision), catalog.connector(connector), catalog.llm(llm))
            found[vision, connector, llm] = embeddings, ""
        except SpecError as e:
            found[vision, connector, llm] = None, str(e)
    return found
