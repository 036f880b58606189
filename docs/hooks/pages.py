"""MkDocs' hook: adds the pages that are not files of docs/, and points links at them. mkdocs.yml names it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import reference  # noqa: E402 (MkDocs loads this file by its path)

BESIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository's root that are pages, too."""
OUTSIDE = re.compile(
    r"\[(?P<text>[^\]]+)\]\((?P<up>(?:\.\./)+)(?P<path>(?:benchmarks|platform|tests|jobs|tune|serve)/[^)#]*)(?P<anchor>#[^)]*)?\)"
)
WORD = re.compile(r"(?<![\w/\[`])(?<!\]\()docs/(?P<page>[\w-]+)\.md(?P<anchor>#[\w-]+)?")
CODE = re.compile(r"(`[^`\n]*`)")

WEIGHTS = {
    "your-pictures": 3.0, "start": 2.0, "troubleshooting": 2.0, "coming-from": 0.5,
    "changelog": 0.2, "contributing": 0.2, "measured/": 0.2, "decisions/": 0.2, "reference/": 0.5,
}  # fmt: skip
"""How much a page counts in the search, by how its path begins: answers before lists, history last."""


def measured(path: str) -> str:
    """The page of a file of benchmarks/results. `index` would become the folder's own page."""
    name = Path(path).stem
    return f"measured/{'index-builder' if name == 'index' else name}.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add results, the changelog and the reference."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        files.append(File.generated(config, measured(path.name), content=path.read_text()))
    for path, page in BESIDE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    for page, text in reference.pages().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to the repository: results are pages here, code is named. docs/NAME.md in a sentence becomes a link."""
    weight = next((w for begins, w in WEIGHTS.items() if page.file.src_uri.startswith(begins)), 1.0)
    page.meta.setdefault("search", {"boost": weight})
    up = "../" * page.file.src_uri.count("/")

    def there(found: re.Match[str]) -> str:
        path = found["path"]
        if path.startswith("benchmarks/results/"):
            return f"[{found['text']}]({up}{measured(path)}{found['anchor'] or ''})"
        return found["text"] if "`" in found["text"] else f"`{path}`"

    fenced = re.split(r"(?ms)(^```.*?^```[^\n]*$)", markdown)
    for i in range(0, len(fenced), 2):
        text = OUTSIDE.sub(there, fenced[i])
        if page.file.src_uri in BESIDE.values():
            text = re.sub(r"\]\(docs/", "](", text)
        lines = [line if line.startswith(("    ", "#")) else _named(line, up) for line in text.split("\n")]
        fenced[i] = "\n".join(lines)
    return "".join(fenced)


def _named(line: str, up: str) -> str:
    """docs/NAME.md in a sentence becomes a link; in `code` it stays what one types."""
    parts = CODE.split(line)
    parts[::2] = [
        WORD.sub(lambda m: f"[{m['page']}]({up}{m['page']}.md{m['anchor'] or ''})", part) for part in parts[::2]
    ]
    return "".join(parts)
