"""The documentation as a site: it builds without a warning, and a reader without a network has all of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from remora.commands.docs import found, newest
from remora.errors import RemoraError
from support.chromium import PROGRAM, WHY, Tab, browser
from support.waiting import until

ROOT = Path(__file__).parents[1]
ASKED = {
    "out of memory": "troubleshooting.html",
    "resume": "troubleshooting.html",
    "my own data": "your-pictures.html",
    "LoRA": "tuning.html",
    "multi node": "cluster.html",
    "vLLM": "serving.html",
    "wrong answers": "troubleshooting.html",
    "blind": "benchmarks.html",
}
"""What people look for, and a page that has to be among the first ten that are found."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "platform")}
    done = subprocess.run(build, cwd=ROOT, env=env, capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert done.returncode == 0 and not told, done.stderr
    return folder


class Parts(HTMLParser):
    """What a page loads: the addresses of scripts, styles, frames and pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.loaded.append(given["src"] or "")
        if tag == "link" and (given.get("rel") or "") in ("stylesheet", "preload", "preconnect", "icon"):
            self.loaded.append(given.get("href") or "")


def in_nav(entries: object) -> Iterator[str]:
    """Every file of the navigation."""
    if isinstance(entries, str):
        yield entries
    for entry in entries.values() if isinstance(entries, dict) else entries if isinstance(entries, list) else ():
        yield from in_nav(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = list(in_nav(yaml.safe_load(text[text.index("\nnav:") :])["nav"]))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(named) and len(named) == len(set(named))


@pytest.mark.slow
def test_it_builds_without_a_warning_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        for address in Parts(page.read_text()).loaded:
            assert "//" not in address, f"{page}: {address}"
            if page.name != "404.html":
                assert (page.parent / address.partition("?")[0]).exists(), f"{page}: {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style


@pytest.mark.slow
def test_its_search_index_has_what_people_look_for(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    for words, page in ASKED.items():
        having = [
            entry["location"].partition("#")[0]
            for entry in index["docs"]
            if all(word in f"{entry['title']} {entry['text']}".lower() for word in words.lower().split())
        ]
        assert page in having, (words, set(having))


LINKS = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"


@pytest.fixture(scope="module")
def tab(site: Path) -> Iterator[Tab]:
    """The first page, opened from the disk, with its search opened."""
    if PROGRAM is None:
        pytest.skip(WHY)
    with browser() as tab:
        tab.open((site / "index.html").as_uri())
        tab.js("document.querySelector('[data-md-toggle=search]').click()")
        yield tab
        assert not tab.problems


@pytest.mark.slow
@pytest.mark.parametrize("words", ASKED)
def test_a_browser_finds_them_in_files_that_nobody_serves(tab: Tab, words: str) -> None:
    tab.js(f"""(() => {{
        document.querySelectorAll('.md-search-result__item').forEach(item => item.remove());
        const field = document.querySelector('[data-md-component=search-query]');
        field.value = {json.dumps(words)};
        field.dispatchEvent(new KeyboardEvent('keyup', {{bubbles: true}}));
    }})()""")
    until("anything that is found", lambda: tab.js(f"{LINKS}.length"))
    found = list(dict.fromkeys(link.rpartition("/")[2].partition("?")[0] for link in tab.js(LINKS)))
    assert ASKED[words] in found[:10]


def test_the_verb_opens_a_page_or_says_what_builds_it(tmp_path: Path) -> None:
    with pytest.raises(RemoraError, match="next: clone the repository, then make docs"):
        found(tmp_path, "index")
    (tmp_path / "mkdocs.yml").touch()
    with pytest.raises(RemoraError, match=r"site is not built yet; next: make docs"):
        found(tmp_path, "index")
    for name in ("index", "troubleshooting", "reference/commands"):
        page = tmp_path / "site" / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.touch()
    assert found(tmp_path, "index") == tmp_path / "site" / "index.html"
    assert found(tmp_path, "commands") == found(tmp_path, "reference/commands")
    with pytest.raises(RemoraError, match="no page 'trouble'; did you mean 'troubleshooting'"):
        found(tmp_path, "trouble")
    light = "import sys, remora.commands.docs; assert not {'torch', 'ray', 'mlflow', 'mkdocs'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", light], check=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").touch()
    assert newest(tmp_path / "docs") > 0
