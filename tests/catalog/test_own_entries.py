"""A user's own entries, in the folder that REMORA_CATALOG names: they add to the shipped ones, never replace them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from remora import catalog
from remora.errors import SpecError, UnknownName
from remora.runs import variant_name
from remora.spec import Variant

DOCS = Path(__file__).parents[2] / "docs" / "catalog.md"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty folder that REMORA_CATALOG names."""
    folder = tmp_path / "catalog"
    (folder / "recipes").mkdir(parents=True)
    monkeypatch.setenv("REMORA_CATALOG", str(folder))
    return folder


def documented() -> dict[str, str]:
    """The YAML of docs/catalog.md by the file that its first line names."""
    return dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", DOCS.read_text(), re.S))


def test_the_documented_entries_are_added_and_can_be_planned(own):
    from remora.planning.sizes import sizes

    for name, text in documented().items():
        (own / name).write_text(text)
    variant = Variant(
        vision="siglip-base-224", connector="resampler-64", llm="qwen2.5-1.5b-instruct", recipe="my-align"
    )
    size = sizes(variant)
    assert (size.vision, size.llm) == (92_884_224, 1_543_714_304)
    assert size.vision == catalog.vision(variant.vision).parameters
    assert size.llm == catalog.llm(variant.llm).parameters
    assert list(size.trained) == ["align"]
    assert variant_name(variant) == "my-align-SigB-Qwen2.5-1.5I-res64"
    assert catalog.dataset("my-captions").path == "mine/captions.json"
    assert catalog.llm("phi-2") and catalog.recipe("base")  # the shipped ones stay
    assert {"siglip-base-224", "clip-l-336"} <= set(catalog.entries("vision"))


def test_without_the_folder_they_are_gone(own, monkeypatch):
    (own / "datasets.yaml").write_text(documented()["datasets.yaml"])
    assert catalog.dataset("my-captions")
    monkeypatch.delenv("REMORA_CATALOG")
    with pytest.raises(UnknownName, match="unknown dataset 'my-captions'"):
        catalog.dataset("my-captions")


SHIPPED = {kind: next(iter(catalog.entries(kind).values())).model_dump(mode="json") for kind in catalog.KINDS}


def changed(kind: str, name: str, **more) -> str:
    """A shipped entry as YAML, under a name and with changes."""
    return yaml.safe_dump({name: SHIPPED[kind] | more})


@pytest.mark.parametrize(
    ("kind", "name", "short", "said"),
    [
        ("vision", "clip-l-336", "Mine", "the vision name 'clip-l-336' is taken"),
        ("vision", "mine", "Sig", "the vision short name 'Sig' is taken"),
        ("llm", "phi-2", "Mine", "the llm name 'phi-2' is taken"),
        ("connectors", "mine", "mlp", "the connectors short name 'mlp' is taken"),
    ],
)
def test_a_shipped_name_is_never_replaced(own, kind, name, short, said):
    (own / f"{kind}.yaml").write_text(changed(kind, name, short=short))
    with pytest.raises(SpecError, match=re.escape(f"{own}: {said}")):
        catalog.entries(kind)


def test_a_shipped_recipe_is_never_replaced(own):
    (own / "recipes" / "base.yaml").write_text(documented()["recipes/my-align.yaml"].replace("my-align", "base"))
    with pytest.raises(SpecError, match="recipes name 'base' is taken"):
        catalog.recipe("base")


def test_what_would_be_left_out_without_a_word_is_an_error(own, monkeypatch):
    (own / "recipes" / "other.yaml").write_text(documented()["recipes/my-align.yaml"])
    with pytest.raises(SpecError, match=r"named 'my-align'; a catalog recipe is named as its file: other"):
        catalog.recipe("my-align")
    (own / "visions.yaml").write_text("{}")
    with pytest.raises(SpecError, match=r"visions.yaml: no catalog file of that name; did you mean 'vision.yaml'\?"):
        catalog.vision("clip-l-336")
    (own / "visions.yaml").unlink()
    (own / "vision.yaml").write_text("")
    with pytest.raises(SpecError, match="expected entries by name, found None"):
        catalog.entries("vision")
    monkeypatch.setenv("REMORA_CATALOG", str(own / "none"))
    with pytest.raises(SpecError, match="no such folder; make it or unset REMORA_CATALOG"):
        catalog.llm("phi-2")


def test_an_own_entry_is_checked_as_a_shipped_one_is(own):
    (own / "llm.yaml").write_text("mine: {short: m, loader: transformers, config: {}, parameters: 1, licenc: x}\n")
    with pytest.raises(
        SpecError, match=re.escape(f"{own}/llm.yaml: mine:1: unknown key 'licenc'; did you mean 'licence'?")
    ):
        catalog.llm("mine")
