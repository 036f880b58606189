"""A published model into Remora: a checkpoint of another project's layout becomes a bundle."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from remora import catalog
from remora.data.prompt import Prompter
from remora.errors import DataError
from remora.inference.bundle import Bundle, write_bundle
from remora.inference.exporting import refuse_full
from remora.model.exchange.layouts import Published, read_published
from remora.model.exchange.matching import (
    match_connector,
    match_llm,
    match_vision,
    reasons_against_llm,
    reasons_against_vision,
)
from remora.model.exchange.parts import write_parts
from remora.model.llm import load_tokenizer


@dataclass(frozen=True)
class Imported:
    """What was read: the layout, the catalog names of its parts, and how it wants its pictures."""

    layout: str
    parts: dict[str, str]
    template: str
    aspect: str
    tower_at_hub: bool
    """Whether the checkpoint leaves the tower's weights at their hub; the bundle then refers to them."""


def import_checkpoint(
    folder: Path, out: Path, *, vision: str | None = None, llm: str | None = None, template: str | None = None
) -> Imported:
    """Write the bundle `out` from a published checkpoint. Names that are not given are matched by `catalog`.

    Raises:
        DataError: an unknown layout, a part that the catalog does not have (its note is the entry to add), tensors
            that do not fit, or an `out` that holds files already.
        SpecError: a given name or the template does not fit.
    """
    refuse_full(out)
    found = read_published(folder)
    names = {
        "vision": _named(vision, "vision", found) if vision else match_vision(found),
        "connector": match_connector(found.depth),
        "llm": _named(llm, "llm", found) if llm else match_llm(found),
    }
    template = template or next(iter(catalog.llm(names["llm"]).templates), "vicuna")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as tmp:
        parts = write_parts(folder, found, names, Path(tmp))
        tokenizer = load_tokenizer(Path(tmp) / "llm")
        Prompter(catalog.template(template), tokenizer, 1)  # refuses a template that the tokenizer cannot write
        about = {"imported": {"layout": found.layout, "from": folder.name}}
        write_bundle(out, Bundle(out.name, parts, template, found.aspect, 0), about)
    return Imported(found.layout, names, template, found.aspect, not found.vision)


def _named(name: str, kind: str, found: Published) -> str:
    """A name that the user gave, if its architecture is the checkpoint's."""
    reasons = (
        reasons_against_vision(catalog.vision(name), found)
        if kind == "vision"
        else reasons_against_llm(catalog.llm(name), found)
    )
    # What the user names stands for the hub id that the checkpoint does not tell.
    if reasons := [r for r in reasons if not r.startswith("hub ")]:
        raise DataError(f"--{kind} {name} is not what the checkpoint holds: {'; '.join(reasons[:3])}")
    return name
