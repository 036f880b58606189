"""Commands that README and the pages show are ones that remora's parser accepts; the YAML of some pages is read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from remora.catalog import listed
from remora.cli import VERBS, parser
from remora.runs import resolve_stages
from remora.spec import Cluster, Recipe, Stage, Validation, Variant
from remora.spec.base import validate
from remora.spec.recipe import MixtureEntry
from remora.spec.tuning import Lora, PartTuning, Tuning

ROOT = Path(__file__).parents[1]
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.parent.name != "decisions"
]
"""Decisions name commands of their day."""
FENCED = re.compile(r"(?ms)^```(\w*)[^\n]*\n(.*?)^```$")
OTHER = {"endpoint"}
"""Words after `remora` that are no verb: an experiment's name in MLflow."""


def shown(page: Path) -> list[str]:
    """The lines of a page's blocks that call remora, without prompts, pipes and comments."""
    text = page.read_text()
    fences = [block for kind, block in FENCED.findall(text) if kind in ("", "sh", "bash", "shell")]
    lines = [line for block in fences for line in block.split("\n")]
    lines += re.findall(r"(?m)^ {4}(.+)$", FENCED.sub("", text))
    return [line.strip() for line in lines if re.match(r"\s*(\$ )?remora \w", line)]


def words(command: str) -> list[str]:
    """Its arguments; `[--json]` in a usage line is one that may be there, `&&` and `|` and `>>` end it."""
    plain = re.sub(r"(?<!\w)\[(--[^\]]+)\]", r"\1", command.removeprefix("$ "))
    plain = re.split(r"\s(?:&&|\|\||\||>>?|&)(?:\s|$)", plain)[0]
    return shlex.split(plain, comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_parser_accepts_the_commands_of_a_page(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in shown(page):
        try:
            parser().parse_args(words(command))
        except SystemExit as e:
            assert e.code == 0, f"{page}: {command}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_sentence_names_verbs_that_there_are(page: Path) -> None:
    for named in re.findall(r"`remora ([a-z]+)(?: ([a-z]+))?", FENCED.sub("", page.read_text())):
        if named[0] in OTHER:
            continue
        group = VERBS[named[0]]
        assert not isinstance(group, dict) or not named[1] or named[1] in group, named


def blocks(page: str) -> list[tuple[str, object]]:
    """The YAML blocks of a page, with their first lines."""
    found = [block for kind, block in FENCED.findall((ROOT / "docs" / page).read_text()) if kind == "yaml"]
    return [(block.split("\n")[0], yaml.safe_load(block)) for block in found]


def test_the_jobs_and_recipes_of_coming_from_are_read() -> None:
    (_, job), (_, recipe) = blocks("coming-from.md")
    variant = validate(Variant, job, "job")
    assert [stage.name for stage in resolve_stages(variant)]
    assert validate(Recipe, recipe, "recipe").stages


@pytest.mark.parametrize("page", ["troubleshooting.md"])
def test_its_snippets_are_keys_of_a_job(page: str) -> None:
    for _, block in blocks(page):
        assert isinstance(block, dict)
        if "mixture" in block:
            block = {"overrides": {"finetune": block}}
        job = {"vision": "clip-l-336", "connector": "mlp2x_gelu", "llm": "phi-2", "recipe": "base"} | block
        variant = validate(Variant, job, page)
        base = listed(Recipe)["base"].stages[-1].model_dump()
        for stage in variant.overrides.values():
            assert validate(Stage, base | stage, page)


def test_the_readme_is_read_in_one_sitting() -> None:
    """Where it links to is there; it has a hundred lines at most."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 100
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / link).exists(), link
    variant = validate(
        Variant, next(yaml.safe_load(block) for kind, block in FENCED.findall(text) if kind == "yaml"), "it"
    )
    assert [stage.mixture[0].path for stage in resolve_stages(variant)[1:]] == ["train.csv", "train.csv"]


FLAG = re.compile(r"`([^`]+)`")


def test_the_right_hand_sides_of_coming_from_are_keys_that_there_are() -> None:
    """Each mapping in a table of coming-from.md is of keys of a job, a stage or the cluster."""
    models = (Variant, Stage, Cluster, Tuning, PartTuning, Lora, MixtureEntry, Validation)
    known = {info.alias or name for model in models for name, info in model.model_fields.items()}
    known |= {"last", "from", "layer"}
    rows = re.findall(r"(?m)^\| .* \| (.*) \|$", (ROOT / "docs" / "coming-from.md").read_text())
    seen = 0
    for row in rows:
        for code in FLAG.findall(row):
            for key in re.findall(r"(?:^|[{,] ?)([a-z_]+):(?: |$)", code):
                assert key in known, (key, row)
                seen += 1
    assert seen > 60
