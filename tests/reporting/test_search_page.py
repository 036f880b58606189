"""The page of a report and its pictures: whole in one file, and there for whatever a search left."""

from __future__ import annotations

import html.parser
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from remora import tracking
from remora.cli import main
from remora.commands import report as verb
from remora.reporting.search_report import charts
from remora.reporting.search_report.drawing import themed
from remora.reporting.search_report.page import write_report
from support.search_folder import SPACE, write_search


class Read(html.parser.HTMLParser):
    """Tags, what they load, and the text of captions."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.labels: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found[a] or "" for a in ("href", "src", "xlink:href", "data", "srcset") if a in found]
        self.labels += [found.get("aria-label") or ""] if found.get("class") == "drawn" else []


@pytest.mark.slow
def test_a_page_is_whole(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "runs")
    written = write_report(folder.runs, "papers", tmp_path / "out.html")
    text = written.page.read_text()
    read = Read(text)
    # Nothing is loaded: links are anchors of the page, and the policy would refuse the rest.
    assert read.links and all(link.startswith("#") and link[1:] in read.ids for link in read.links)
    assert "default-src 'none'" in text and not {"script", "link", "iframe", "img"} & set(read.tags)
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(read.ids) == len(set(read.ids))
    # Every figure says what it shows, to those who see it and to those who do not.
    figures = read.tags.count("figure")
    assert figures == read.tags.count("figcaption") == len(read.labels) == len(written.images) >= 12
    assert all(len(label) > 10 for label in read.labels)
    assert text.count("600 questions") >= 5 and "not distinguishable" in text.lower()
    for name in folder.variants:
        assert name in text
    # What a figure says of itself holds without its caption, too.
    assert all(f">{axis}</text>" in text for axis in ("vision", "llm", "finetune.lr"))
    assert "none of them was measured here" in text and ">85.5</text>" in text and "1 variants" not in text
    for image in written.images:
        assert image.read_bytes().startswith(b"\x89PNG") and image.parent == tmp_path / "out-figures"
    # Light and dark: the colours that differ are variables, of which each is given twice.
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert "--ink" in used and all(text.count(f"{name}: #") == 2 for name in used)
    assert len(text) < 600_000


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("space", "left"),
    [
        (SPACE, {"ruled": False, "paused": 0}),
        (SPACE, {"failed": 2}),
        ({**SPACE, "vision": ["clip-l-336"], "llm": ["phi-2"], "axes": {}, "published": {}}, {"paused": 0}),
        ({**SPACE, "vision": ["clip-l-336"], "llm": ["phi-2"], "axes": {}, "published": {}}, {"paused": 1}),
    ],
    ids=["no rungs", "failed variants", "one variant", "nothing measured"],
)
def test_a_page_opens_for_what_a_search_left(
    space: dict[str, Any], left: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if left.get("paused") == 1:
        left = {**left, "failed": 0}
        folder = write_search(tmp_path, space, paused=0, failed=1)
    else:
        folder = write_search(tmp_path, space, **left)
    main(["report", "papers", "--runs", str(tmp_path)])
    said = capsys.readouterr().out.splitlines()
    page = tmp_path / "searches" / "papers" / "report" / "report.html"
    assert said[0] == f"report: {page}" and said[1].endswith(f"PNGs in {page.with_name('report-figures')}")
    text = page.read_text()
    assert all(name in text for name in folder.variants)
    assert ("out of memory" in text) == bool(folder.failed)
    assert ('id="rungs"' in text) == (left.get("ruled", True))


@pytest.mark.slow
def test_json_needs_nothing_to_draw_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_search(tmp_path)
    monkeypatch.setattr(verb, "find_spec", lambda name: None)
    main(["report", "papers", "--json", "--runs", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert found["leaderboard"]["champion"] == found["result"]["champion"]
    assert len(found["leaderboard"]["lines"]) == 12 and len(found["ablations"]) == 3
    with pytest.raises(SystemExit) as ended:
        main(["report", "papers", "--runs", str(tmp_path)])
    assert str(ended.value.code).endswith("next: pip install 'remora[report]'")


@pytest.mark.slow
def test_a_search_ends_with_its_report_in_mlflow_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_search(tmp_path)
    began, page = time.time(), tmp_path / "searches" / "papers" / "report" / "report.html"
    with tracking.Run(tmp_path, key="search/papers", name="papers"):
        pass
    later = f"remora report papers --runs {tmp_path}"
    with monkeypatch.context() as without:
        without.setattr(verb, "find_spec", lambda name: None)
        assert verb.keep_report(tmp_path, "papers", "search/papers") == ""
        assert verb.report_line(tmp_path, "papers", began) == f"report: pip install 'remora[report]', then {later}"
    with monkeypatch.context() as broken:
        broken.setattr(charts, "bars", lambda *_: 1 / 0)
        why = verb.keep_report(tmp_path, "papers", "search/papers")
        assert why == "no report was written: division by zero; next: remora report papers"
        assert verb.report_line(tmp_path, "papers", began) == f"report: {later}"
    assert verb.keep_report(tmp_path, "papers", "search/papers") == ""
    assert verb.report_line(tmp_path, "papers", began) == f"report: {page}"
    assert verb.report_line(tmp_path, "papers", time.time() + 1) == f"report: {later}"  # of an earlier command
    (record,) = (tmp_path / "tracking").glob("search-*.json")
    found = json.loads(record.read_text())
    assert found["files"]["report"][0] == "searches/papers/report" and found["status"] == "FINISHED"


def test_marks_have_tooltips_and_names_are_no_markup() -> None:
    svg = (
        '<svg class="marks" width="300" height="100" viewBox="0 0 300 100"><clipPath id="clip0"></clipPath>'
        '<path aria-label="a &lt;b&gt;: 3" fill="#1c2126" clip-path="url(#clip0)" d="M0,0"/></svg>'
    )
    found = themed(svg, "one")
    assert "<title>a &lt;b&gt;: 3</title></path>" in found and 'fill="var(--ink)"' in found
    assert 'id="one-clip0"' in found and "url(#one-clip0)" in found
    assert "max-width:300px" in found and 'viewBox="0 0 300 100"' in found
