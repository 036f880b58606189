"""`remora docs`: the built documentation, opened in a browser from the disk."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from remora.commands.options import DocsOptions
from remora.errors import RemoraError, nearest
from remora.reporting.columns import literal

ROOT = Path(__file__).parents[3]
"""The clone, if this package is one's own."""


def docs(options: DocsOptions) -> None:
    """Open a page of site/ and print where it is."""
    page = found(ROOT, options.page)
    console = literal(soft_wrap=True)
    console.print(page, highlight=False)
    if newest(ROOT / "docs") > page.stat().st_mtime:
        console.print("older than docs/; next: make docs", highlight=False)
    webbrowser.open(page.as_uri())


def found(root: Path, name: str) -> Path:
    """The built page of that name.

    Raises:
        RemoraError: no clone, not built, or no such page.
    """
    if not (root / "mkdocs.yml").is_file():
        raise RemoraError(
            "the documentation is in the repository, and this package is installed without it; "
            "next: clone the repository, then make docs there"
        )
    site = root / "site"
    if not (site / "index.html").is_file():
        raise RemoraError(f"{site} is not built yet; next: make docs")
    pages = {page.relative_to(site).with_suffix("").as_posix(): page for page in sorted(site.rglob("*.html"))}
    short = {known.rpartition("/")[2]: page for known, page in reversed(pages.items())} | pages
    if name not in short:
        raise RemoraError(f"no page {name!r}{nearest(name, short)}; known: {', '.join(pages)}")
    return short[name]


def newest(folder: Path) -> float:
    """When the latest of its pages was written, in seconds."""
    return max(page.stat().st_mtime for page in folder.rglob("*.md"))
