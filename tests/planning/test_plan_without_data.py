"""A plan before any download: sizes come from the catalog, and what is unknown is reported."""

from __future__ import annotations

import pytest

from remora import catalog
from remora.cli import main
from remora.errors import DataError, SpecError
from remora.planning import plan_of
from remora.runs import Store, graph
from remora.spec import Variant

PARTS = {"vision": "siglip-so400m-384", "connector": "mlp2x_gelu", "llm": "phi-2"}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "source_digest", lambda part, name: f"{part}/{name}")
    return Store(tmp_path / "runs")


def test_steps_follow_from_the_catalogs_counts(store):
    plan = plan_of([Variant(**PARTS, recipe="share")], store)
    rows = [(r.run, r.steps, r.samples, r.state, r.exact) for r in plan.rows]
    assert rows == [
        ("align-?", 2181, 558_128, "no data", True),  # 558,128 / 256, the last batch smaller
        ("pretrain-?", 4868, 1_246_000, "no data", False),
        ("finetune-?", 5196, 665_000, "no data", False),
    ]
    assert plan.missing == ("llava-pretrain-558k", "sharegpt4v-pt-1246k", "sharegpt4v-mix-665k")
    assert not store.root.exists()  # reading creates nothing


def test_what_variants_share_is_shared_without_the_data(store):
    plan = plan_of([Variant(**PARTS, recipe=r) for r in ("base", "share", "llava-1.5")], store)
    assert (plan.distinct, plan.uses) == (5, 7)
    assert plan.rows[0].variants == ("base-Sig-Phi2-mlp", "share-Sig-Phi2-mlp", "llava-1.5-Sig-Phi2-mlp")


def test_data_that_is_here_is_read_and_the_rest_is_outlined(catalog_data, monkeypatch):
    monkeypatch.setattr(graph, "source_digest", lambda part, name: f"{part}/{name}")
    store = Store(catalog_data / "runs")
    store.data = catalog_data
    (catalog_data / catalog.dataset("sharegpt4v-mix-665k").path).unlink(missing_ok=True)
    one_step = {name: {"warmup": 0} for name in ("align", "pretrain")}  # at rate 0, it would be refused
    plan = plan_of([Variant(**PARTS, recipe="share", overrides=one_step)], store)
    align, pretrain, finetune = plan.rows
    assert (align.samples, align.state) == (3, "to train") and "?" not in align.run
    assert (pretrain.state, finetune.state) == ("to train", "no data") and finetune.samples == 665_000


def test_steps_and_weights_are_counted_as_a_run_counts_them(store):
    over = {"align": {"steps": 7}, "finetune": {"mixture": [{"dataset": "llava-mix-665k", "weight": 0.5, "cap": 1000}]}}
    align, finetune = plan_of([Variant(**PARTS, recipe="base", overrides=over)], store).rows
    assert (align.steps, align.samples, align.exact) == (7, 7 * 256, True)
    assert (finetune.steps, finetune.samples) == (8, 1000)


def test_data_of_ones_own_has_to_be_there(store, tmp_path):
    over = {"align": {"mixture": [{"path": str(tmp_path / "none.json")}]}}
    with pytest.raises(DataError, match=r"missing dataset file: .*none.json"):
        plan_of([Variant(**PARTS, recipe="base", overrides=over)], store)
    demo = Variant(vision="efficientnet-lite0", connector="linear", llm="demo-2m", recipe="base")
    with pytest.raises(DataError, match=r"'demo-language' is not at .*next: remora data demo"):
        plan_of([demo], store)


def test_the_size_of_a_picture_follows_its_encoder(store):
    other = PARTS | {"vision": "siglip-so400m-384@224", "connector": "pixel-shuffle-4"}
    plan = plan_of([Variant(**PARTS, recipe="base"), Variant(**other, recipe="base")], store)
    assert [(s.pixels, s.tokens, s.width, s.embeddings) for s in plan.shapes] == [
        (384, 729, 1152, 729),
        (224, 256, 1152, 16),
    ]


def test_parts_that_do_not_fit_are_told_before_any_data_is_looked_for(store):
    with pytest.raises(SpecError, match="ldp makes one of 2 x 2 tokens"):
        plan_of([Variant(**PARTS | {"connector": "ldp"}, recipe="base")], store)


def test_the_shipped_job_can_be_planned_and_rendered(tmp_path, capsys, pytestconfig, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # with counts of samples
    job = str(pytestconfig.rootpath / "jobs" / "tinyllava-3b.yaml")
    main(["plan", job, "--runs", str(tmp_path / "runs")])
    said = " ".join(capsys.readouterr().out.split())
    assert "2,181" in said and "~4,868" in said and "~1,246,000" in said
    assert "sharegpt4v-pt-1246k is not here, its size is the catalog's; next: hf download Lin-Chen/ShareGPT4V" in said
    assert "research only: commercial use is forbidden (data sharegpt4v-pt-1246k: CC-BY-NC-4.0, data" in said
    main(["render", job, "--runs", str(tmp_path / "runs")])
    assert "name: share-Sig-Phi-mlp" in capsys.readouterr().out
