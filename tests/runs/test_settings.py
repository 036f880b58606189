"""`--set KEY=VALUE`: what it changes in a variant and in a space, what it refuses, and what it looks up where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from remora.commands.options import TrainOptions, as_written
from remora.errors import SpecError
from remora.runs import read_space, read_survey, read_variant, read_variants, resolve_stages, variants_of
from remora.spec import Cluster, Condensation, Space, load
from remora.spec.settings import settings_of
from remora.spec.variant import CHOSEN

VARIANT: dict[str, Any] = {
    **{"vision": "efficientnet-lite0", "connector": "mlp2x_gelu", "llm": "demo-2m", "recipe": "base"},
    "overrides": {"finetune": {"lr": 1.0e-3, "steps": 7, "tune": {"vision": "frozen"}}},
}
SPACE: dict[str, Any] = {
    "name": "s",
    **{k: [VARIANT[k]] for k in ("vision", "connector", "llm")},
    "recipe": ["base", "share"],
    "champion": {"benchmark": "easy-vqa-val"},
    "cases": [{"when": {"recipe": "share"}, "overrides": {"finetune": {"lr": 5.0e-3}}}],
    "axes": {"align.lr": [1.0e-3, 2.0e-3]},
}


def test_auto_in_place_of_a_cluster_keeps_what_it_does_not_choose(file: Any) -> None:
    cluster = {"workers": 4, "micro_batch": 2, "zero": 3, "precision": "bf16", "gpu_price": 2.5}
    spec = file(VARIANT | {"cluster": cluster})
    found = read_variant(spec, ["cluster=auto"]).cluster
    assert found == Cluster(auto=True, precision="bf16", gpu_price=2.5)
    assert found.model_fields_set == {"auto", "precision", "gpu_price"}
    again = read_variant(spec, ["cluster=auto", "cluster.workers=2"]).cluster
    assert again == Cluster(auto=True, precision="bf16", gpu_price=2.5, workers=2)
    kept = read_variant(spec, ["cluster.auto=true"]).cluster
    assert kept == Cluster(auto=True, **cluster)
    assert read_variant(file(VARIANT), ["cluster=auto"]).cluster.auto
    assert set(CHOSEN) < set(Cluster.model_fields)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(content: dict[str, Any]) -> Path:
        (tmp_path / "spec.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "spec.yaml"

    return write


def stages(file: Path, *settings: str) -> dict[str, Any]:
    return {s.name: s for s in resolve_stages(read_variant(file, settings))}


def test_it_is_what_the_file_would_be(file):
    """Each setting against the same value written into the file."""
    by_hand = VARIANT | {"seed": 3, "cluster": {"workers": [1, 2], "precision": "bf16"}, "benchmarks": ["gqa", "pope"]}
    said = ["seed=3", "cluster.workers=[1, 2]", "cluster.precision=bf16", "benchmarks=[gqa, pope]"]
    assert read_variant(file(VARIANT), said) == read_variant(file(by_hand))


def test_a_key_of_a_stage_and_of_every_stage(file):
    found = stages(file(VARIANT), "lr=1e-4", "finetune.tune.vision.last=2", "finetune.epochs=2", "align.clip=1")
    assert (found["align"].lr, found["finetune"].lr, found["align"].clip) == (1e-4, 1e-4, 1.0)
    assert found["language"].lr != 1e-4  # the language model's own stage is not the recipe's
    assert (found["finetune"].tune.vision.mode, found["finetune"].tune.vision.blocks) == ("last", 2)
    assert (found["finetune"].epochs, found["finetune"].steps) == (2, None)
    assert stages(file(VARIANT), "overrides.finetune.lr=2e-4")["finetune"].lr == 2e-4
    assert stages(file(VARIANT), "finetune.lr=1e-5", "finetune.lr=3e-5")["finetune"].lr == 3e-5  # the last one wins


def test_in_a_space_it_wins_over_overrides_and_cases_and_is_kept_with_it(file):
    space = read_space(file(SPACE), settings=["finetune.lr=1e-4", "champion.prefer=cheapest", "axes.align.lr=[0.5]"])
    again = Space.model_validate(space.model_dump(mode="json"))
    for one in (space, again):
        found = [{s.name: s for s in resolve_stages(v)} for v in variants_of(one)]
        assert {f["finetune"].lr for f in found} == {1e-4} and {f["align"].lr for f in found} == {0.5}
    assert space.champion.prefer == "cheapest"
    assert "settings" not in read_space(file(SPACE)).model_dump()  # searches of before keep their identity


def test_a_path_is_looked_up_in_the_working_folder(file, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.json").write_text("[]")
    (tmp_path / "mine.json").write_text("[]")  # beside the spec
    monkeypatch.chdir(here)
    said = ["finetune.mixture=[{path: mine.json}]", "benchmarks=[own.yaml]"]
    variant = read_variant(file(VARIANT), said)
    assert variant.overrides["finetune"]["mixture"] == [{"path": str(here / "mine.json")}]
    assert variant.benchmarks == (str(here / "own.yaml"),)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("finetune.lr", "write KEY=VALUE, as in --set finetune.lr=1e-4"),
        ("finetune.lr=[", "--set finetune.lr=[:1: not valid YAML"),
        ("finetune.lrr=1", "unknown key 'lrr'; did you mean 'lr'? (known: mixture, "),
        ("finetun.lr=1", "no stage 'finetun'; did you mean 'finetune'?; there are: language, align, finetune"),
        ("clustr.workers=1", "no key 'clustr'; did you mean 'cluster'? (known: "),
        ("cluster.worker=1", "cluster has no key 'worker'; did you mean 'workers'? (known: auto, workers, "),
        ("finetune={lr: 1e-3}", "keys of a stage are set one by one: --set finetune.lr=…"),
        ("finetune.lr=true", "lr: must be a number (found true)"),
        ("seed.x=1", "--set seed.x=1: seed has no key 'x'"),
        ("sed=1", "no key 'sed'; did you mean 'seed'? (of the file: "),
        ("finetune.name=x", "unknown key 'name'"),
        ("choice.x=1", "unknown key 'x'"),
        ("finetune.lr=abc", "--set finetune.lr: finetune: lr: must be a number (found 'abc')"),
        ("cluster.workers=0", "--set cluster.workers=0: cluster.workers: 0 is neither a number of workers"),
        ("llm=[a]", "--set llm=[a]: llm: must be text (found a list of 1)"),
        ("finetune.mixture.x.weight=2", "--set finetune.mixture.x.weight: no dataset 'x' in the mixture"),
    ],
)
def test_a_mistake_is_one_line_with_what_exists(file, setting, why):
    with pytest.raises(SpecError) as caught:
        read_survey(file(VARIANT), settings=[setting])
    assert why in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("align.lr=1", "axis align.lr of the space varies it; set the axis: --set 'axes.align.lr=[…]'"),
        ("lr=1", "axis align.lr of the space varies it"),
        ("nowhere.lr=1", "no stage 'nowhere'; there are: language, align, finetune"),
        ("llm=demo-2m", "llm: must be a list (found 'demo-2m')"),
    ],
)
def test_a_mistake_about_a_space(file, setting, why):
    with pytest.raises(SpecError) as caught:
        read_space(file(SPACE), settings=[setting])
    assert f"--set {setting.partition('=')[0]}" in str(caught.value) and why in str(caught.value)


def test_a_mistake_of_the_file_keeps_its_line(file):
    with pytest.raises(SpecError, match=r"spec.yaml:\d+: unknown key 'sede'"):
        read_variant(file(VARIANT | {"sede": 1}), ["seed=1"])


def test_other_specs_and_published_models(tmp_path):
    spec = {"name": "c", "clusters": {"count": 2}, "embeddings": {"images": "a"}, "text_rank": None}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(spec))
    assert load(Condensation, tmp_path / "c.yaml", settings_of(["duplicate=0.5"])).duplicate == 0.5
    with pytest.raises(SpecError, match=r"--set lr=1: no key 'lr' \(known: name, source, "):
        load(Condensation, tmp_path / "c.yaml", settings_of(["lr=1"]))
    (variant,) = read_variants("TinyLLaVA-base-C-TL", ["finetune.lr=1e-7", "seed=9"])
    assert variant.seed == 9 and {s.name: s.lr for s in resolve_stages(variant)}["finetune"] == 1e-7


def test_python_may_give_values():
    assert as_written({"finetune.lr": 1e-4, "benchmarks": ["gqa"]}) == ("finetune.lr=0.0001", 'benchmarks=["gqa"]')
    assert TrainOptions.of({"spec": "x", "settings": "a=1"}).settings == ("a=1",)
