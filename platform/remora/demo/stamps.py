"""Tux Paint's stamps: photographs that were cut out, with captions, as in Debian's package tuxpaint-stamps-default.

`animals/birds/duck.png` has the picture with transparency, `duck.txt` its caption: in English first, then in other
languages. The folders are kinds. Drawings (folders named cartoon and the like, pictures of few colours) are left out.
"""

import re
import unicodedata
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import yaml
from PIL import Image

from remora.demo.archives import Download, fetched, unpack_deb
from remora.demo.concepts import Concept
from remora.demo.folder import OnPartProgress
from remora.errors import DataError
from remora.files import digest, is_published, publishing, sha256_file

PACKAGE = Download(
    "https://deb.debian.org/debian/pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    160880444,
)
INSTALLED = Path("/usr/share/tuxpaint/stamps")
ADVICE = (
    "apt install tuxpaint-stamps-default, or load the file elsewhere and give it with --stamps FILE.deb "
    "(or --stamps DIR, a folder of Tux Paint's stamps)"
)
BELOW = "usr/share/tuxpaint/stamps"
"""Where the package has the stamps."""


def stamps(given: Path | None, data: Path, progress: OnPartProgress) -> Path:
    """The folder of stamps: of what the user gave, else what was unpacked before, is installed, or is downloaded.

    Args:
        given: A .deb or a folder of stamps.
        data: Where packages are kept and unpacked.
        progress: Called with (what, done, total).

    Raises:
        DataError: there are none, and how to get them.
    """
    unpacked = data / "tuxpaint-stamps"
    if given is None:
        if is_published(unpacked):
            return unpacked
        if INSTALLED.is_dir():
            return INSTALLED
        given = fetched(PACKAGE, data / "downloads", ADVICE, progress)
    if given.is_dir():
        inside = given / BELOW  # of a package that was unpacked by hand
        return inside if inside.is_dir() else given
    if not given.is_file():
        raise DataError(f"--stamps {given}: there is no such file or folder; next: {ADVICE}")
    progress("unpacking", 0, 1)
    with publishing(unpacked) as folder:
        if not unpack_deb(given, BELOW, (".png", ".txt"), folder):
            raise DataError(f"{given} has no files in {BELOW}; it should be Debian's tuxpaint-stamps-default")
    return unpacked


SIDE = 96
"""Pixels of a cut-out at most, as of the scenes."""
LEAST_PIXELS, LEAST_COLOURS = 400, 0.6
"""Opaque pixels of a photograph at least, and colours among them, as a share."""
MOST_WORDS = 3
NO_NAMES = frozenset({"two", "your", "our", "very", "alien"})
"""Words of captions that say more than a name: Eat your broccoli!"""
DRAWINGS = frozenset({"cartoon", "toys"})
"""Folders of stamps that are no photographs."""

ATTRIBUTION = """\
The pictures under images are scenes (scaled, turned, on grounds of many colours) composed of stamps of Tux Paint,
https://tuxpaint.org, by its contributors; Debian's package tuxpaint-stamps-default names them in its copyright file.
Licence: GPL-2.0-or-later, https://www.gnu.org/licenses/old-licenses/gpl-2.0.html. The scenes and the names in the
questions are under the same licence.
"""


def kind_facts() -> dict[str, dict[str, str]]:
    """The fact table photo_kinds.yaml: kind -> phrase, folders."""
    text = resources.files("remora.demo").joinpath("photo_kinds.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, str]] = yaml.safe_load(text)
    return found


def fingerprint(folder: Path) -> str:
    """A digest of the stamps that may be used: files, captions and pictures."""
    return digest([[c.code, c.name, c.kind, sha256_file(c.file)] for c in _captioned(folder)])


def cutouts(folder: Path) -> dict[Concept, Image.Image]:
    """The stamps that are photographs of one nameable thing, sorted by file, with their pictures, as `cut_out` gives
    them.

    Raises:
        DataError: a picture cannot be read, or there are too few of them to be Tux Paint's stamps.
    """
    found = {concept: cutout for concept in _captioned(folder) if is_photograph(cutout := cut_out(concept))}
    if len({concept.kind for concept in found}) < 3:
        raise DataError(f"{folder} has no captioned photographs in folders such as animals and food; next: {ADVICE}")
    return found


def cut_out(concept: Concept) -> Image.Image:
    """The stamp, RGBA, cropped to what is not transparent and at most SIDE high and wide."""
    try:
        with Image.open(concept.file) as opened:
            opened.draft("RGBA", (SIDE, SIDE))
            picture = opened.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{concept.file} cannot be read as a picture: {error}") from error
    seen = picture.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()
    if seen:
        picture = picture.crop(seen)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def is_photograph(cutout: Image.Image) -> bool:
    """Whether most of its opaque pixels have colours of their own. Drawings have areas of one colour."""
    raw = cutout.tobytes()
    opaque = [raw[at : at + 3] for at in range(0, len(raw), 4) if raw[at + 3] == 255]
    return len(opaque) >= LEAST_PIXELS and len(set(opaque)) >= LEAST_COLOURS * len(opaque)


def spoken(caption: str) -> str | None:
    """The noun of an English caption, "A duck." -> duck; None if it is not a short name."""
    plain = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode().strip().lower()
    name = re.sub(r"^(?:an?|the|some)\s+|[.!]+$", "", plain).strip()
    words = name.split()
    fits = re.fullmatch(r"[a-z][a-z -]*", name) and len(words) <= MOST_WORDS and not NO_NAMES & set(words)
    return name if fits else None


def _captioned(folder: Path) -> Iterator[Concept]:
    """The stamps of known kinds whose caption is a name, without drawings' folders."""
    for kind, facts in kind_facts().items():
        for name in facts["folders"].split():
            for picture in sorted((folder / name).rglob("*.png")):
                inside = picture.relative_to(folder)
                caption = picture.with_suffix(".txt")
                if DRAWINGS & set(inside.parts) or not caption.is_file():
                    continue
                first = caption.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
                if said := spoken(first):
                    code = re.sub(r"[^a-z0-9]+", "-", inside.with_suffix("").as_posix().lower())
                    yield Concept(code, said, kind, picture)
