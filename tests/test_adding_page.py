"""The examples of docs/adding.md work: the template makes the prompt, the connector embeddings, the format records."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from remora import catalog
from remora.data import sources
from remora.data.check import check_dataset
from support.tiny import write_records

PAGE = Path(__file__).parents[1] / "docs" / "adding.md"


def block(name: str) -> str:
    """The code of the page whose first line names this file."""
    found = re.search(rf"```\w+\n# {re.escape(name)}\n(.*?)```", PAGE.read_text(), re.S)
    assert found, name
    return found[1]


def defined(name: str) -> dict[str, object]:
    """The names that a block of Python defines."""
    names: dict[str, object] = {"__name__": "page"}
    exec(compile(block(name), name, "exec", dont_inherit=True), names)
    return names


def test_the_template_is_an_entry_that_stages_may_name(tmp_path, monkeypatch):
    (tmp_path / "templates.yaml").write_text(block("templates.yaml"))
    monkeypatch.setenv("REMORA_CATALOG", str(tmp_path))
    template = catalog.template("question-answer")
    assert template.writes_questions and template.user == "Question: {image}{text}\n"
    assert "vicuna" in catalog.entries("templates")


def test_the_connector_makes_embeddings():
    torch = pytest.importorskip("torch")
    pooled = defined("pooled.py")["Pooled"](4, 6, factor=3)
    tokens = torch.randn(2, 9, 4)
    made = pooled(tokens)
    assert made.shape == (2, 3, 6)
    expected = torch.stack([pooled.project(tokens[:, i : i + 3].mean(1)) for i in (0, 3, 6)], 1)
    assert torch.allclose(made, expected, atol=1e-6)


def test_the_format_is_checked_and_indexed(tmp_path, monkeypatch):
    piped, known = defined("piped.py")["Piped"], sources._format
    monkeypatch.setattr(sources, "_format", lambda name: piped if name.endswith(".piped") else known(name))
    write_records(tmp_path, images=".", pictures=True)
    picture = next(tmp_path.rglob("*.png"))
    file = tmp_path / "mine.piped"
    file.write_text(f"{picture.name} | What is it? | a picture\n{picture.name} | And now? | the same\n")
    report = check_dataset(str(file), str(picture.parent), None, (), lambda *_: None)
    assert (report.records, report.fatal) == (2, 0)
    with file.open("a") as f:
        f.write("no bars\n")
    assert check_dataset(str(file), str(picture.parent), None, (), lambda *_: None).fatal == 1
