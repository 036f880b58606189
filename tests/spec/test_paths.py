"""Relative paths of a spec are made absolute once, when it is read: trials of a search have other working folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora.spec import Condensation, Recipe, Space, load
from remora.spec.paths import located, placed

SPACE = """
name: mine
vision: [efficientnet-lite0]
connector: [mlp2x_gelu]
llm: [demo-2m]
recipe: [base, own.yaml]
champion: {benchmark: exam.yaml}
benchmarks: [easy-vqa-val, exam.yaml]
overrides:
  align: {mixture: [demo-captions, {path: data/a.json, images: data}, {path: "s3://b/c.json"}, {path: /d.json}]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "specs"
    (made / "data").mkdir(parents=True)
    for name in ("own.yaml", "exam.yaml", "data/a.json", "data/train-1.parquet"):
        (made / name).write_text("")
    (tmp_path / "here.json").write_text("")
    monkeypatch.chdir(tmp_path)
    return made


def test_a_space_names_the_same_files_everywhere(folder: Path) -> None:
    (folder / "space.yaml").write_text(SPACE)
    space = load(Space, "specs/space.yaml")
    exam = str(folder / "exam.yaml")
    assert space.recipe == ("base", str(folder / "own.yaml"))
    assert (space.champion.benchmark, space.benchmarks) == (exam, ("easy-vqa-val", exam))
    _, own, url, absolute = space.overrides["align"]["mixture"]
    assert own == {"path": str(folder / "data/a.json"), "images": str(folder / "data")}
    assert (url["path"], absolute["path"]) == ("s3://b/c.json", "/d.json")


def test_a_recipes_and_a_condensations_paths_are_their_own_files(folder: Path) -> None:
    stage = "{name: align, lr: 1.0, steps: 1, mixture: [{path: data/a.json}]}"
    (folder / "own.yaml").write_text(f"name: own\nstages: [{stage}]\n")
    assert load(Recipe, "specs/own.yaml").stages[0].mixture[0].path == str(folder / "data/a.json")
    (folder / "c.yaml").write_text(
        "name: c\nsource: {path: data/a.json, images: data}\nencoder: clip-l-224\nclusters: {count: 2}\n"
    )
    source = load(Condensation, "specs/c.yaml").source
    assert source and (source.path, source.images) == (str(folder / "data/a.json"), str(folder / "data"))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("data/a.json", "specs/data/a.json"),
        ("here.json", "here.json"),  # only in the working folder
        ("../here.json", "specs/../here.json"),
        ("data/train-*.parquet", "specs/data/train-*.parquet"),
        ("data/train-{1..3}.parquet", "specs/data/train-{1..3}.parquet"),
        ("no/where.json", "specs/no/where.json"),
    ],
)
def test_beside_the_spec_then_in_the_working_folder(text: str, right: str, folder: Path, tmp_path: Path) -> None:
    assert placed(text, folder) == f"{tmp_path}/{right}"
    assert placed(text, Path("specs")) == f"{tmp_path}/{right}"


@pytest.mark.parametrize("text", ["", "/a", "~/a", "hf://a/b", "https://a/b.json"])
def test_what_is_no_relative_path_stays(text: str, folder: Path) -> None:
    assert placed(text, folder) == text


@pytest.mark.parametrize(
    "raw",
    [
        None, [], 1, "x", {"recipe": 1}, {"benchmarks": {"a": 1}}, {"champion": []}, {"overrides": [1]},
        {"overrides": {"a": 1}}, {"overrides": {"a": {"mixture": 3}}}, {"stages": "x"}, {"source": "name"},
        {"embeddings": 3}, {"overrides": {"a": {"mixture": [{"path": 3}, {"path": "\0"}]}}},
    ],
)  # fmt: skip
def test_what_is_no_spec_passes_through(raw: object, folder: Path) -> None:
    located(raw, folder)
