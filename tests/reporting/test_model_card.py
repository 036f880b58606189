"""Model card and bill of materials: valid by their own libraries, the same as those checked in, and honest.

`python tests/reporting/test_model_card.py` writes the golden files anew.
"""

from __future__ import annotations

import json
import sys
import tempfile
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from remora.inference.bundle import PAPERS, Bundle, bundle_name, read_bundle_file, weights_digest, write_bundle
from remora.model.refs import PartRef
from remora.pipeline.origin.explanation import Explanation, explain
from remora.reporting.model_card.bom import BOM, bill_of_materials
from remora.reporting.model_card.card import README, model_card, why_not
from remora.reporting.model_card.papers import cards_of, papers, write_papers

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
from support.explained_folder import ExplainedFolder, write_explained
from support.kept_explanation import read_explanation

GOLDEN = Path(__file__).parents[1] / "golden"
AT = datetime(2026, 1, 1, tzinfo=UTC)


def champion(folder: ExplainedFolder) -> Explanation:
    return explain(folder.bundles["resampler"], folder.runs, "it", siblings=False)


def made(found: Explanation, of: str = "explained") -> dict[str, str]:
    return {f"{of}-README.md": model_card(found), f"{of}-bom.cdx.json": bill_of_materials(found, AT)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ExplainedFolder:
    return write_explained(tmp_path_factory.mktemp("card"))


@pytest.fixture
def found(folder: ExplainedFolder) -> Explanation:
    return champion(folder)


@pytest.mark.parametrize("name", ["demo-README.md", "demo-bom.cdx.json"])
def test_those_of_the_demos_champion_are_checked_in(name: str) -> None:
    """What `remora explain remora@champion --json` said after `remora demo`; the papers are made of that."""
    assert made(demo(), "demo")[name] == (GOLDEN / name).read_text()


def test_the_demos_papers_are_whole() -> None:
    origin = demo().origin
    assert errors(bill_of_materials(demo(), AT)) == []
    assert [d.licence for d in origin.data].count(None) == 0 and len(origin.stages) == 4
    assert len(card_data(model_card(demo())).eval_results) == len(origin.scores) == 3  # each with its blind figure


def demo() -> Explanation:
    return read_explanation((GOLDEN / "demo-explained.json").read_text())


def with_scores(found: Explanation, **changes: object) -> Explanation:
    """The explanation with other facts in its only score."""
    scores = deepcopy(dict(found.origin.scores))
    scores["easy-vqa"] = {**scores["easy-vqa"], **changes}
    return replace(found, origin=replace(found.origin, scores=scores))


@pytest.mark.parametrize("name", ["explained-README.md", "explained-bom.cdx.json"])
def test_they_are_those_that_are_checked_in(found: Explanation, name: str) -> None:
    assert made(found)[name] == (GOLDEN / name).read_text()


def test_nothing_of_this_machine_is_in_them(found: Explanation, folder: ExplainedFolder) -> None:
    for text in made(found).values():
        assert str(folder.runs.parent) not in text and "/tmp" not in text


def errors(text: str) -> list[str]:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return [str(e) for e in JsonStrictValidator(SchemaVersion.V1_6).validate_str(text, all_errors=True) or ()]


def test_the_bill_of_materials_is_valid_by_cyclonedxs_own_schema(found: Explanation) -> None:
    text = bill_of_materials(found, AT)
    assert errors(text) == []
    spoilt = json.loads(text)
    spoilt["components"][0]["modelCard"]["modelParameters"]["approach"]["type"] = "guessed"
    assert errors(json.dumps(spoilt))  # the validator sees what we put in beside the library


def test_the_bill_of_materials_has_every_file_part_dataset_and_library(found: Explanation) -> None:
    bom = json.loads(bill_of_materials(found, AT))
    model, *rest = bom["components"]
    others = {c["bom-ref"]: c for c in rest}
    hashes = {c["name"]: c["hashes"][0]["content"] for c in model["components"]}
    assert hashes == {f: sha for part in found.origin.parts for f, sha in part.files.items()}
    data = {c["name"]: c["hashes"][0]["content"] for c in others.values() if c["type"] == "data"}
    assert data == {d.dataset: d.digest for d in found.origin.data}
    refs = {each["ref"] for each in model["modelCard"]["modelParameters"]["datasets"]}
    assert refs == {ref for ref, c in others.items() if c["type"] == "data"}
    (needs,) = [d["dependsOn"] for d in bom["dependencies"] if d["ref"] == model["bom-ref"]]
    assert set(needs) == set(others)
    assert {"library:torch@2.12.0+cu128", "platform:python@3.11.9", "device:NVIDIA H100"} <= set(others)
    licences = {p: others[f"part:{p}"].get("licenses") for p in ("vision", "llm", "connector")}
    assert licences["llm"][0]["license"]["id"] == "Apache-2.0" and licences["connector"] is None


def test_an_unlisted_licence_has_its_name(found: Explanation) -> None:
    parts = tuple(replace(p, licence="Gemma Terms of Use") if p.part == "llm" else p for p in found.origin.parts)
    text = bill_of_materials(replace(found, origin=replace(found.origin, parts=parts)), AT)
    (licence,) = next(c["licenses"] for c in json.loads(text)["components"] if c["bom-ref"] == "part:llm")
    assert licence["license"]["name"] == "Gemma Terms of Use" and errors(text) == []


def test_a_part_of_the_hub_is_found_there(found: Explanation) -> None:
    hub = {"hub": "openai/clip-vit-large-patch14-336", "package": None, "revision": "c" * 40}
    parts = tuple(replace(p, **hub) if p.part == "vision" else p for p in found.origin.parts)
    other = replace(found, origin=replace(found.origin, parts=parts))
    text = bill_of_materials(other, AT)
    vision = next(c for c in json.loads(text)["components"] if c["bom-ref"] == "part:vision")
    assert vision["purl"] == f"pkg:huggingface/openai/clip-vit-large-patch14-336@{'c' * 40}"
    assert vision["externalReferences"][0]["url"].endswith(f"/tree/{'c' * 40}") and errors(text) == []
    assert "openai/clip-vit-large-patch14-336" in str(card_data(model_card(other)).base_model)


def card_data(text: str):
    from huggingface_hub import ModelCard

    return ModelCard(text).data


def test_the_card_is_read_back_by_the_hubs_own_class(found: Explanation) -> None:
    data = card_data(model_card(found))
    (result,) = data.eval_results
    score = found.origin.scores["easy-vqa"]
    assert data.model_name == found.origin.name and data.pipeline_tag == "image-text-to-text"
    assert result.metric_value == score["accuracy"]
    assert result.metric_args["confidence_interval_95"] == score["ci"] and result.metric_args["blind"] == score["blind"]


@pytest.mark.parametrize(("lacks", "why"), [({"ci": []}, "it has no interval"), ({"blind": None}, "no blind figure")])
def test_a_figure_alone_is_not_in_the_index_and_that_is_said(found: Explanation, lacks: dict, why: str) -> None:
    bare = with_scores(found, **lacks)
    text = model_card(bare)
    assert why in why_not(bare.origin.scores["easy-vqa"])
    assert (
        not card_data(text).eval_results
        and f"not in the model-index: {why_not(bare.origin.scores['easy-vqa'])}" in text
    )
    bom = bill_of_materials(bare, AT)
    assert json.loads(bom)["components"][0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"] == []


def test_a_model_of_which_little_is_known_has_valid_papers(folder: ExplainedFolder, tmp_path: Path) -> None:
    out = tmp_path / "imported"
    parts = {"llm": PartRef("demo-2m", folder.bundles["resampler"] / "llm"), "connector": PartRef("mlp2x_gelu")}
    about = {"imported": {"layout": "bunny", "from": "x", "notes": []}}
    write_bundle(out, Bundle("imported", parts, "vicuna", "pad", 0), about)
    bare = explain(out, tmp_path / "runs", "it")
    assert bare.origin.made == "imported from x (bunny)" and bare.origin.permission.use == "open"
    assert "the data that it was trained on is not known" in bare.origin.gaps
    assert errors(bill_of_materials(bare, AT)) == []
    assert not card_data(model_card(bare)).eval_results


def test_papers_in_an_exported_bundle_are_no_part_of_the_model(folder: ExplainedFolder, tmp_path: Path) -> None:
    assert PAPERS == (README, BOM)
    source, out = folder.bundles["resampler"], tmp_path / "out"
    said = read_bundle_file(source)
    bundle = Bundle(
        said["name"],
        {p: PartRef(r["name"], source / r["folder"] if r["folder"] else None) for p, r in said["parts"].items()},
        said["template"], said["aspect"], said["seed"],
    )  # fmt: skip
    write_bundle(out, bundle, said["about"], papers(champion(folder)))
    assert all((out / name).is_file() for name in PAPERS)
    assert weights_digest(out) == weights_digest(source) and bundle_name(out) == bundle_name(source)
    assert explain(out, folder.runs, "it").origin.scores.keys() == {"easy-vqa"}


def test_papers_are_kept_beside_the_bundle(folder: ExplainedFolder, found: Explanation) -> None:
    place = cards_of(folder.runs, folder.bundles["resampler"])
    write_papers(papers(found), place)
    assert {p.name for p in place.iterdir()} == set(PAPERS)
    assert place == folder.runs / "cards" / folder.bundles["resampler"].name


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for name, text in (made(champion(write_explained(Path(place)))) | made(demo(), "demo")).items():
            (GOLDEN / name).write_text(text)
