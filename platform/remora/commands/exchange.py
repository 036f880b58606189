"""`remora export`, `remora import`, `remora average`: write, read and average models."""

from __future__ import annotations

import sys

from transformers.utils import logging

from remora.commands.cards import card_line
from remora.commands.options import AverageOptions, ExportOptions, ImportOptions
from remora.errors import DataError
from remora.inference.bundle_average import average_bundles
from remora.inference.exporting import export_bundle
from remora.inference.importing import import_checkpoint
from remora.pipeline.origin.explanation import explain
from remora.reporting.bars import growing
from remora.reporting.columns import literal
from remora.reporting.model_card.bom import BOM
from remora.reporting.model_card.card import README
from remora.reporting.model_card.papers import INSTALL, has_bom, papers
from remora.tracking import find_model


def _quiet() -> None:
    """Silence transformers' progress bars and tables; our errors say the same in one line."""
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()


def export(options: ExportOptions) -> None:
    """Write a model to a folder, in the stock llava layout if it has one."""
    _quiet()
    bundle = find_model(options.model, options.runs, options.tracking_uri).folder

    def with_papers(layout: str) -> dict[str, str]:
        return papers(explain(bundle, options.runs, options.model, siblings=False), layout)

    with growing(literal(), "exporting", options.out):
        made = export_bundle(bundle, options.out, options.runs / "cache", with_papers)
    if made.layout == "llava":
        said = "the stock llava layout; transformers' LlavaForConditionalGeneration and vLLM load it directly"
    else:
        said = f"Remora's own layout with every part in it, and not the stock one: {made.reason}"
    out = literal(soft_wrap=True)
    out.print(f"{options.out}: {said}", markup=False, highlight=False)
    bom = f"bill of materials: {options.out / BOM}" if has_bom() else f"no bill of materials: {INSTALL}"
    out.print(f"model card: {options.out / README}; {bom}", markup=False, highlight=False)


def import_(options: ImportOptions) -> None:
    """Write a bundle from a downloaded checkpoint; prints an entry that the catalog lacks, ready to paste."""
    _quiet()
    try:
        named = {"vision": options.vision, "llm": options.llm, "template": options.template, "base": options.base}
        with growing(literal(), "importing", options.out):
            made = import_checkpoint(options.folder, options.out, **named)
    except DataError as e:
        for entry in getattr(e, "__notes__", ()):
            sys.stdout.write(entry)
        raise
    lines = [f"{options.out}: a bundle from a {made.layout} checkpoint, template {made.template}"]
    lines += [f"  {part}: {name}" for part, name in made.parts.items()]
    if made.aspect == "pad":
        lines.append("  its pictures were padded to squares in training (aspect pad)")
    for part in made.at_hub:
        lines.append(f"  the checkpoint leaves its {part} on the hub: {made.parts[part]} is read from there")
    lines += [f"  note: {note}" for note in made.notes]
    lines.append(card_line(options.runs, options.out))
    literal(soft_wrap=True).print("\n".join(lines), markup=False, highlight=False)


def average(options: AverageOptions) -> None:
    """Write the weighted average of models."""
    _quiet()
    models = [find_model(given, options.runs, options.tracking_uri) for given in options.models]
    with growing(literal(), "averaging", options.out):
        average_bundles([m.folder for m in models], options.weights, options.out, options.runs / "cache")
    shares = " + ".join(f"{w:g} x {m.folder.name}" for w, m in zip(options.weights, models, strict=True))
    lines = f"{options.out}: {shares}\n{card_line(options.runs, options.out)}"
    literal(soft_wrap=True).print(lines, markup=False, highlight=False)
