"""Made npm packages in the layout of Iconify's: icons.json has the drawings, chars.json their names by code point."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from remora.demo.archives import Download
from remora.demo.concepts import Concept
from remora.demo.styles import CODES, ICONS, PACKAGES, IconPackage

COLOURS = {"noto": "#ff0000", "twemoji": "#00ff00"}
WIDE, HIGH = 20, 10
"""Of a drawing: a box of one colour that does not fill its square."""


def icons(some: Iterable[Concept], colour: str) -> dict[str, dict[str, object]]:
    """The two files; every second code point has a variation selector, as half of the older emoji have."""
    table: dict[str, object] = {}
    codes = {}
    for number, concept in enumerate(some):
        body = f'<rect x="4" y="6" width="{WIDE}" height="{HIGH}" fill="{colour}"/>'
        table[f"icon-{number}"] = {"body": body, "height": 30} if number == 0 else {"body": body}
        codes[concept.code.lower() + ("-fe0f" if number % 2 else "")] = f"icon-{number}"
    return {ICONS: {"prefix": "x", "icons": table, "width": 36, "height": 36}, CODES: codes}


def npm(files: Mapping[str, object], file: Path) -> Path:
    """These files, as JSON, in an npm package."""
    with tarfile.open(file, mode="w:gz") as archive:
        for name, content in {"package/package.json": {}, **files}.items():
            raw = json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return file


def published(file: Path) -> Download:
    content = file.read_bytes()
    return Download(f"file://{file}", hashlib.sha256(content).hexdigest(), len(content))


def write_packages(some: Iterable[Concept], folder: Path) -> dict[str, IconPackage]:
    """A package of these concepts in each style, in the place of the pinned ones."""
    folder.mkdir(exist_ok=True)
    made = {style: npm(icons(some, COLOURS[style]), folder / f"{style}-1.0.0.tgz") for style in PACKAGES}
    return {style: IconPackage(published(file), PACKAGES[style].licence) for style, file in made.items()}
