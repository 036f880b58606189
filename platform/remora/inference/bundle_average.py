"""The weighted average of trained variants, as a bundle (Bunny's last step; see model/averaging.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from remora.errors import SpecError
from remora.inference.bundle import Bundle, read_bundle, write_bundle
from remora.inference.writing import refuse_full, writing
from remora.model.averaging import average_folders, check_weights
from remora.model.parts import compose, save_parts
from remora.model.refs import PartRef
from remora.spec import PARTS


def average_bundles(folders: Sequence[Path], weights: Sequence[float], out: Path, cache: Path) -> None:
    """Write the bundle `out`, in which every part is the average of the bundles' parts, with adapters merged first.

    Raises:
        SpecError: different parts, template or aspect, or weights that do not sum to 1.
        DataError: no bundle there, or `out` holds files already.
    """
    refuse_full(out)
    check_weights(weights, len(folders))
    bundles = [read_bundle(folder, cache) for folder in folders]
    for bundle, folder in zip(bundles, folders, strict=True):
        if (mine := _kind(bundle)) != (first := _kind(bundles[0])):
            odd = next(f"{k} {mine[k]!r} and {first[k]!r}" for k in mine if mine[k] != first[k])
            raise SpecError(f"only variants of the same parts can be averaged: {folder} and {folders[0]} have {odd}")
    with writing(out) as tmp:
        written = [tmp / str(i) for i in range(len(bundles))]
        for bundle, folder in zip(bundles, written, strict=True):
            save_parts(*compose(bundle.parts, bundle.seed), folder)  # pretrained parts too, and adapters merged
        parts = {}
        for part in PARTS:
            name = bundles[0].parts[part].name
            if all(b.parts[part] == bundles[0].parts[part] for b in bundles):
                parts[part] = bundles[0].parts[part]  # untrained: it stays a reference
                continue
            average_folders([folder / part for folder in written], weights, tmp / part)
            parts[part] = PartRef(name, tmp / part)
        about = {"average": [{"of": str(f), "weight": w} for f, w in zip(folders, weights, strict=True)]}
        write_bundle(out, replace(bundles[0], name=out.name, parts=parts), about)


def _kind(bundle: Bundle) -> dict[str, str]:
    named = {part: bundle.parts[part].name for part in PARTS}
    return named | {"template": bundle.template, "aspect": bundle.aspect}
