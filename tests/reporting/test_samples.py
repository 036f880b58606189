"""Samples as people see them: marked without colours too, and nothing that a dataset says is a command or a tag."""

from __future__ import annotations

import io
from functools import cache
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from remora import catalog
from remora.data.conversation import Sample, Turn
from remora.reading.prompt import Prompter
from remora.reading.shown import View
from remora.reporting.samples import Section, half_blocks, histogram, print_sections, visible, write_page

EVIL = '<script>alert(1)</script> [red]x[/] \x1b[2J\x07 \u202edrow & "quoted" \''


class Page(HTMLParser):
    """The tags of a page with their attributes, its text, and that which is marked as supervised."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = self.supervised = ""
        self.inside: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.inside.append((tag, (dict(attrs).get("class") or "").split()))

    def handle_endtag(self, tag):
        assert self.inside.pop()[0] == tag

    def handle_data(self, data):
        tag, classes = self.inside[-1] if self.inside else ("", [])
        self.text += data if tag != "style" else ""
        self.supervised += data if "t" in classes else ""


@cache
def tokenizer():
    from remora.model.llm import train_tokenizer

    return train_tokenizer(["USER: What is it? ASSISTANT: a cat. Which colour? red"], 340)


def section(*turns: str, pictures: int = 1, max_length: int = 400, name: str = "cats/1.png") -> Section:
    from remora.reading.view import free_reader, rendered

    said = tuple(
        Turn("assistant", text) if i % 2 else Turn("user", text, pictures if not i else 0)
        for i, text in enumerate(turns)
    )
    prompter = Prompter(catalog.template("vicuna"), tokenizer(), 4)
    reader = free_reader(prompter, catalog.vision("clip-l-336"), "pad", max_length)
    shown = [(name, lambda: Image.new("RGB", (40, 20), (200, 30, 30)))] * pictures
    made = rendered(reader, Sample("7", said, ()), shown, View(3, name, 12, name))
    return Section("stage one", [name, "template vicuna"], [made], {name: [10, 30, 30, 250]}, max_length)


def printed(made: Section, terminal: bool = False, ids: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, color_system="truecolor" if terminal else None)
    print_sections(console, [made], ids)
    return out.getvalue()


def test_a_pipe_gets_marks_instead_of_colours_and_whole_lines():
    said = printed(section("What is it? " * 20, "a cat", "Which colour?", "red", max_length=400))
    assert "\x1b" not in said and "▀" not in said
    assert "ASSISTANT:⟦ a cat⟨</s>⟩⟧USER: Which colour? ASSISTANT:⟦ red⟨</s>⟩⟧\n" in said
    assert "USER: <image × 4: cats/1.png, 40 x 20 → 336 x 336>⏎\n" in said
    assert "What is it? " * 19 in said  # not wrapped
    assert "3 · cats/1.png record 12 · id cats/1.png" in said
    assert "245 of 400 tokens, 5 supervised (2%), 4 of pictures" in said and "⟦supervised⟧" in said


def test_a_terminal_gets_colours_underlines_and_the_picture():
    said = printed(section("What is it?", "a cat"), terminal=True)
    assert "\x1b[4;32m a" in said and "⟦" not in said  # underlined and green
    assert "▀" in said and "38;2;" in said
    assert all(len(line) <= 80 for line in Console(width=80).render_str(visible("x" * 80)).plain.splitlines())


def test_ids_are_printed_when_asked_for():
    made = section("What is it?", "a cat")
    said = printed(made, ids=True)
    for span in made.views[0].spans:
        for token in span.tokens:
            assert span.kind == "image" or f"[{','.join(map(str, token.ids))}]" in said


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_dataset_says_steers_no_terminal(terminal):
    clean, evil = (section(text, text, name=f"{text}/x/y/z.png") for text in ("plain", EVIL))
    said = printed(evil, terminal)
    assert "\x1b[2J" not in said and "\x07" not in said and "\u202e" not in said
    assert "␛[2J␇ <U+202E>drow" in said.replace("\x1b[4;32m", "").replace("\x1b[0m", "") and "[red]x[/]" in said
    assert clean.views[0].spans


def test_what_a_dataset_says_is_no_tag_of_the_page(tmp_path):
    pages = []
    for text in ("harmless", EVIL):
        write_page(
            tmp_path / "page.html", text, [section(text, text, text, text, max_length=2000, name=f"{text}/1.png")]
        )
        pages.append(Page((tmp_path / "page.html").read_text()))
    harmless, evil = pages
    kinds = {tag for tag, _ in evil.tags}
    assert kinds == {tag for tag, _ in harmless.tags} and "script" not in kinds
    assert "<script>alert(1)</script>" in evil.text
    names = {name for _, attributes in evil.tags for name in attributes}
    assert names == {name for _, attributes in harmless.tags for name in attributes}
    assert "\u202e" not in evil.text and "\x1b" not in evil.text


def test_a_page_is_one_file_that_asks_nobody(tmp_path):
    write_page(tmp_path / "page.html", "jobs/x.yaml", [section("What is it?", "a cat")])
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    addresses = [a[k] for _, a in page.tags for k in ("src", "href", "action", "srcset") if a.get(k)]
    assert len(addresses) == 2 and all(a.startswith("data:image/png;base64,") for a in addresses)
    assert "http" not in text.replace("http-equiv", "") and "url(" not in text and "@import" not in text
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    assert page.supervised == "supervised: the loss is taken here a cat</s>"


def test_every_token_of_the_page_has_its_id(tmp_path):
    made = section("What is it?", "a cat")
    write_page(tmp_path / "page.html", "x", [made])
    titles = [a["title"] for t, a in Page((tmp_path / "page.html").read_text()).tags if t == "span" and "title" in a]
    tokens = [(s, t) for s in made.views[0].spans for t in s.tokens]
    assert len(titles) == len(tokens)
    for title, (span, token) in zip(titles, tokens, strict=True):
        ids = ", ".join(map(str, token.ids))
        assert title == (
            "4 positions of cats/1.png" if span.kind == "image" else ids + ", supervised" * span.supervised
        )


def test_what_was_cut_and_dropped_is_said_in_both(tmp_path):
    cut = section("What?", "a cat", "And?", "red " * 300)
    dropped = section("What? " * 300, "a cat")
    write_page(tmp_path / "page.html", "x", [cut, dropped])
    page = Page((tmp_path / "page.html").read_text()).text
    for said in (printed(cut) + printed(dropped), page):
        assert "cut: round 2 of 2 left out; the whole has" in said
        assert "dropped, nothing of it is learnt: its first question and answer have" in said


def test_a_histogram_counts_every_sample_once():
    found = [1, 1, 7, 48, 49, 50, 120]
    bins = histogram(found, 50)
    assert sum(b.count for b in bins) == len(found) and max(b.height for b in bins) == 1
    assert all(sum(b.start <= n <= b.end for b in bins) == 1 for n in found)
    assert [b.count for b in bins if b.over] == [0] * (len([b for b in bins if b.over]) - 1) + [1]
    assert [b.count for b in histogram([3], 50)] == [0, 0, 1]


def test_half_blocks_keep_shape_and_colours():
    picture = Image.new("RGB", (60, 30), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 15, 60, 30))
    text = half_blocks(picture)
    lines = text.plain.splitlines()
    assert len(lines) == 6 and {len(line) for line in lines} == {24}
    styles = [str(span.style) for span in text.spans]
    assert styles[0].startswith("rgb(255,0,0)") and styles[-1].endswith("rgb(0,0,255)")
