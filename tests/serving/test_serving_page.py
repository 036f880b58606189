"""The page at `/` in a real browser: pictures, streamed answers, stop, conversation, keys, phone, keyboard, dark.

Screenshots of the last test are in docs/images: REMORA_SCREENSHOTS=docs/images writes them again.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from remora.serving.args import EndpointArgs
from remora.serving.keys import ApiKey, hash_of
from support.chromium import PROGRAM, WHY, Tab, browser
from support.scripted_endpoint import PIECES, served
from support.serving_fake import call, data_url
from support.waiting import until

KEY = "rmr-of-the-tests"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Tab]:
    if PROGRAM is None:
        pytest.skip(WHY)
    with browser() as tab:
        yield tab


@pytest.fixture
def tab(chrome: Tab) -> Iterator[Tab]:
    chrome.problems.clear()
    chrome.look(1100, 800)
    yield chrome
    wrong = [p for p in chrome.problems if "401" not in p and "400" not in p]
    assert not wrong, "the console complains"


def text_of(tab: Tab, which: str = "li.assistant:last-child .text") -> str:
    return str(tab.js(f"document.querySelector('#turns {which}')?.textContent ?? ''"))


def answered(tab: Tab, turns: int) -> None:
    until("the answer", lambda: tab.js("document.querySelectorAll('#turns .figures').length") == turns)


def ready(tab: Tab, url: str) -> None:
    tab.open(url)
    until("the model's name", lambda: "remora@3" in tab.js("document.getElementById('model').textContent"))


def drawn(folder: Path) -> Path:
    picture = Image.new("RGB", (480, 300), (238, 234, 222))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((50, 70, 210, 230), fill=(204, 52, 48))
    pen.rectangle((270, 80, 420, 230), fill=(44, 92, 186))
    picture.save(folder / "shapes.png")
    return folder / "shapes.png"


def test_the_page_has_everything_in_it_and_runs_nothing_else() -> None:
    response = call("GET", "/", EndpointArgs(keys={"a": ApiKey(sha256=hash_of("a"))}))
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/html")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//|@import|url\(", response.text), "no part from elsewhere"
    assert not re.search(r" on\w+=\"| style=\"|innerHTML|eval\(|insertAdjacent|document\.write", response.text)
    assert call("HEAD", "/").status_code == 200


@pytest.mark.slow
def test_a_conversation_with_a_picture_as_it_streams(tab: Tab, tmp_path: Path) -> None:
    with served() as (url, app):
        ready(tab, url)
        tab.choose("#files", [drawn(tmp_path)])
        until("the picture", lambda: tab.js("document.querySelectorAll('#chosen img').length") == 1)
        tab.type("What is it?")
        tab.press("Enter")
        for i in range(1, len(PIECES)):
            app.let.release()
            until("the piece", lambda i=i: text_of(tab) == "".join(PIECES[:i]))
        assert tab.js("document.getElementById('stop').checkVisibility()")
        app.let.release()
        answered(tab, 1)
        assert text_of(tab) == "".join(PIECES), "as text: the model's <b> is no element"
        figures = tab.js("document.querySelector('#turns .figures').textContent")
        assert re.fullmatch(r"remora@3 · first token \d+ ms · [\d.]+ tokens/s · 12 tokens", figures), figures
        (first,) = app.asked
        assert (first["model"], first["stream"], first["stream_options"]) == ("remora", True, {"include_usage": True})
        (message,) = first["messages"]
        assert message["content"][1] == {"type": "text", "text": "What is it?"}
        sent = base64.b64decode(message["content"][0]["image_url"]["url"].removeprefix("data:image/png;base64,"))
        assert sent == (tmp_path / "shapes.png").read_bytes(), "the file as it is"
        tab.type("And what else?")  # the question has the focus again
        tab.press("Enter", modifiers=8)
        tab.type("Look.")
        tab.press("Enter")
        app.let.release(len(PIECES))
        answered(tab, 2)
        roles = [(m["role"], m["content"] if isinstance(m["content"], str) else "…") for m in app.asked[1]["messages"]]
        assert roles == [("user", "…"), ("assistant", "".join(PIECES)), ("user", "And what else?\nLook.")]
        tab.js("document.getElementById('new').click()")
        tab.type("Hi")
        tab.press("Enter")
        app.let.release(len(PIECES))
        answered(tab, 1)
        assert app.asked[2]["messages"] == [{"role": "user", "content": "Hi"}]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["Escape", "button", "new"])
def test_an_answer_is_stopped(tab: Tab, way: str) -> None:
    with served() as (url, app):
        ready(tab, url)
        tab.type("What is it?")
        tab.press("Enter")
        app.let.release(2)
        until("two pieces", lambda: text_of(tab) == "".join(PIECES[:2]))
        if way == "Escape":
            tab.press("Escape")
        else:
            tab.js(f"document.getElementById('{'stop' if way == 'button' else 'new'}').click()")
        assert app.gone.wait(60), "the endpoint knows it"
        if way == "new":
            until("an empty page", lambda: tab.js("document.querySelectorAll('#turns li').length") == 0)
            until("the end", lambda: tab.js("going === null"))
            assert tab.js("turns.length") == 0
            return
        answered(tab, 1)
        assert text_of(tab) == "".join(PIECES[:2])
        assert tab.js("document.querySelector('#turns .figures').textContent").endswith("stopped")
        assert tab.js("document.querySelectorAll('.failed').length") == 0
        assert tab.js("document.activeElement.id") == "question"
        tab.type("Go on")
        tab.press("Enter")
        until("the second question", lambda: len(app.asked) == 2)
        assert app.asked[1]["messages"][1] == {"role": "assistant", "content": "".join(PIECES[:2])}
        app.let.release(len(PIECES))
        answered(tab, 2)


@pytest.mark.slow
def test_pictures_are_dropped_pasted_removed_and_made_smaller(tab: Tab) -> None:
    big = data_url(Image.new("RGB", (3000, 1500), (255, 0, 0)), "BMP")
    with served() as (url, app):
        ready(tab, url)

        def put(event: str, kind: str, blob: str, name: str) -> None:
            raw = blob.partition(",")[2]
            tab.js(
                f"""(() => {{
                  const bytes = Uint8Array.from(atob("{raw}"), c => c.charCodeAt(0));
                  const data = new DataTransfer();
                  data.items.add(new File([bytes], "{name}", {{ type: "{kind}" }}));
                  window.dispatchEvent(new {event});
                }})()"""
            )

        small = data_url(Image.new("RGB", (40, 30), (0, 0, 255)))
        put("DragEvent('drop', { dataTransfer: data, cancelable: true })", "image/png", small, "a.png")
        until("the dropped picture", lambda: tab.js("document.querySelectorAll('#chosen img').length") == 1)
        put("ClipboardEvent('paste', { clipboardData: data, cancelable: true })", "image/bmp", big, "b.bmp")
        until("the pasted picture", lambda: tab.js("document.querySelectorAll('#chosen img').length") == 2)
        put("DragEvent('drop', { dataTransfer: data, cancelable: true })", "image/png", "data:,AAAA", "broken.svg")
        put("DragEvent('drop', { dataTransfer: data, cancelable: true })", "image/tiff", "data:,AAAA", "broken.tiff")
        until("the refusal", lambda: "no picture" in tab.js("document.getElementById('said').textContent"))
        tab.js("document.querySelector('#chosen li:nth-child(3) button')?.click()")
        tab.js("document.querySelector('#chosen li:first-child button').click()")
        assert tab.js("document.querySelectorAll('#chosen img').length") == 1
        tab.type("What is it?")
        tab.press("Enter")
        app.let.release(len(PIECES))
        answered(tab, 1)
        shown = app.asked[0]["messages"][0]["content"][0]["image_url"]["url"]
        assert shown.startswith("data:image/jpeg;base64,")
        assert Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).size == (2048, 1024)


@pytest.mark.slow
def test_keys_are_asked_for_and_kept_in_the_tab(tab: Tab) -> None:
    with served(EndpointArgs(keys={"tests": ApiKey(sha256=hash_of(KEY))})) as (url, app):
        app.scripted = False  # the application's own answers, and its check of keys
        tab.open(url)
        until("the question for a key", lambda: tab.js("document.getElementById('keys').open"))
        tab.type("rmr-wrong")
        tab.press("Enter")
        until("it again", lambda: "refused" in tab.js("document.getElementById('key-why').textContent"))
        tab.type(KEY)
        tab.press("Enter")
        until("the model", lambda: "remora@3" in tab.js("document.getElementById('model').textContent"))
        until("the question", lambda: tab.js("document.activeElement.id") == "question")
        tab.type("What is it?")
        tab.press("Enter")
        answered(tab, 1)
        assert text_of(tab).startswith("user | [] | What is it? | ")
        assert tab.js("localStorage.length") == 0 and KEY not in tab.js("document.cookie")
        tab.js("sessionStorage.clear()")
        tab.open(f"{url}/?again#key={KEY}")
        until("the model", lambda: "remora@3" in tab.js("document.getElementById('model').textContent"))
        assert tab.js("location.hash") == "", "the key is out of the address"
        tab.js("sessionStorage.clear()")


@pytest.mark.slow
def test_what_goes_wrong_is_told_and_can_be_asked_again(tab: Tab) -> None:
    with served() as (url, app):
        ready(tab, url)
        app.scripted = False
        tab.type("too long")
        tab.press("Enter")
        until("the refusal", lambda: tab.js("document.querySelectorAll('.failed').length") == 1)
        assert "maximum context length" in tab.js("document.querySelector('.failed').textContent")
        assert tab.js("document.getElementById('question').value") == "too long"
        app.scripted, app.cut = True, True
        tab.js("document.getElementById('question').value = ''")
        tab.type("What is it?")
        tab.press("Enter")
        app.let.release(len(PIECES))
        until("the cut", lambda: tab.js("document.querySelectorAll('.failed').length") == 2)
        assert "cut off" in tab.js("[...document.querySelectorAll('.failed')].at(-1).textContent")
        assert len(app.asked[0]["messages"]) == 1, "what was refused is not part of the conversation"
    assert all("net::ERR" in p or "400" in p for p in tab.problems), tab.problems
    tab.type("Are you there?")
    tab.press("Enter")
    until("the end", lambda: tab.js("document.querySelectorAll('.failed').length") == 3)
    assert "does not answer" in tab.js("[...document.querySelectorAll('.failed')].at(-1).textContent")
    tab.problems.clear()


LABELS = """[...document.querySelectorAll('button, input, textarea, img, ol, dialog')].filter(e =>
  !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim() || e.alt ||
    (e.labels && e.labels.length))).map(e => e.outerHTML)"""
CONTRAST = """(() => {
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = parts(c).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (parts(c)[3] !== 0) return c; } return 'rgb(255, 255, 255)'; };
  const ratio = e => { const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); };
  return [...document.querySelectorAll('h1, #model, button, .button, .hint, .text, .figures, .failed, textarea')]
    .filter(e => e.checkVisibility()).map(e => [ratio(e), e.id || e.className]).sort((a, b) => a[0] - b[0])[0];
})()"""
"""The least contrast of text on the page, and where: WCAG 2's formula."""


@pytest.mark.slow
def test_it_looks_right_on_a_desk_and_on_a_phone(tab: Tab, tmp_path: Path) -> None:
    """Labels, contrast, the keyboard's way through it, nothing wider than the screen; and pictures of it."""
    shots = Path(os.environ.get("REMORA_SCREENSHOTS") or tmp_path)
    with served() as (url, app):
        app.pieces = ["A red circle", " on the left,", " and a blue", " square on", " the right."]
        for name, width, height, scheme, phone in [
            ("page-light", 1100, 760, "light", False),
            ("page-dark", 1100, 760, "dark", False),
            ("page-phone", 390, 780, "light", True),
        ]:
            tab.look(width, height, scheme, phone)
            ready(tab, url)
            tab.choose("#files", [drawn(tmp_path)])
            until("the picture", lambda: tab.js("document.querySelectorAll('#chosen img').length") == 1)
            tab.type("What is in the picture?")
            tab.press("Enter")
            for i in range(len(app.pieces)):
                app.let.release()
                until("the piece", lambda i=i: text_of(tab) == "".join(app.pieces[: i + 1]))
            answered(tab, 1)
            tab.type("Which is on the left?")
            tab.choose("#files", [drawn(tmp_path)])
            until("the second picture", lambda: tab.js("document.querySelectorAll('#chosen img').length") == 1)
            assert tab.js(LABELS) == []
            contrast, where = tab.js(CONTRAST)
            assert contrast >= 4.5, (name, where, contrast)
            assert tab.js("document.documentElement.scrollWidth <= innerWidth"), name
            sizes = "[...document.querySelectorAll('button, .button')].filter(e => e.checkVisibility())"
            assert tab.js(f"Math.min(...{sizes}.map(e => Math.min(e.offsetWidth, e.offsetHeight)))") >= 24
            tab.screenshot(shots / f"{name}.png")
            with Image.open(shots / f"{name}.png") as shot:
                assert shot.size == (width, height)
        tab.look(1100, 760)
        ready(tab, url)
        reached = []
        for _ in range(6):
            tab.press("Tab")
            reached.append(tab.js("document.activeElement.id || document.activeElement.className"))
        assert {"files", "send", "skip", "new"} <= set(reached), reached
