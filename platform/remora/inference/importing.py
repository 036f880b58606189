"""Import a published model: a checkpoint in another project's layout becomes a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from remora import catalog
from remora.errors import DataError
from remora.exchange.layouts import PublishedCheckpoint, read_published
from remora.exchange.matching import (
    match_connector,
    match_llm,
    match_vision,
    reasons_against_llm,
    reasons_against_vision,
)
from remora.exchange.part_folders import write_parts
from remora.inference.bundle import Bundle, write_bundle
from remora.inference.writing import refuse_full, writing
from remora.model.hub import cached
from remora.model.llm import load_tokenizer
from remora.reading.prompt import Prompter


@dataclass(frozen=True)
class Imported:
    """What was imported: the layout, the catalog names of its parts, and its aspect mode."""

    layout: str
    parts: dict[str, str]
    template: str
    aspect: str
    at_hub: tuple[str, ...]
    """Parts whose weights the checkpoint leaves on the hub; the bundle refers to them."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one line each."""


def import_checkpoint(
    folder: Path,
    out: Path,
    *,
    vision: str | None = None,
    llm: str | None = None,
    template: str | None = None,
    base: str | None = None,
) -> Imported:
    """Write the bundle `out` from a published checkpoint. Names that are not given are matched by `catalog`; `base` is
    the folder or hub id of its adapters' base, if it is not where they say.

    Raises:
        DataError: an unknown layout, a part that the catalog does not have (its note is the entry to add), tensors
            that do not fit, or an `out` that holds files already.
        SpecError: a given name or the template does not fit.
    """
    refuse_full(out)
    found = read_published(folder, base)
    names = {
        "vision": _named(vision, "vision", found) if vision else match_vision(found),
        "connector": match_connector(found.depth),
        "llm": _named(llm, "llm", found) if llm else match_llm(found),
    }
    template = template or next(iter(catalog.llm(names["llm"]).templates), "vicuna")
    catalog.template(template)
    notes = [*found.notes]
    if found.vision_config is None and not found.vision and catalog.vision(names["vision"]).hub != found.vision_hub:
        notes.append(f"config.json names the encoder {found.vision_hub}; {names['vision']} is another one's weights")
    with writing(out) as tmp:
        parts = write_parts(folder, found, names, tmp)
        if where := parts["llm"].folder or cached(catalog.llm(names["llm"]).hub or ""):
            # Refuses a template that the tokenizer does not support.
            Prompter(catalog.template(template), load_tokenizer(where), 1)
        about = {"imported": {"layout": found.layout, "from": folder.name, "notes": notes}}
        write_bundle(out, Bundle(out.name, parts, template, found.aspect, 0), about)
    at_hub = tuple(part for part, ref in parts.items() if ref.folder is None)
    return Imported(found.layout, names, template, found.aspect, at_hub, tuple(notes))


def _named(name: str, kind: str, found: PublishedCheckpoint) -> str:
    """The name given by the user, if its architecture is the checkpoint's."""
    reasons = (
        reasons_against_vision(catalog.vision(name), found)
        if kind == "vision"
        else reasons_against_llm(catalog.llm(name), found)
    )
    # The user's name replaces the hub id that the checkpoint lacks.
    if reasons := [r for r in reasons if not r.startswith("hub ")]:
        raise DataError(f"--{kind} {name} is not what the checkpoint holds: {'; '.join(reasons[:3])}")
    return name
