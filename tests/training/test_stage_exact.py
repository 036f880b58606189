"""One stage gives the same losses and weights however it is split, stopped or sharded. Real DeepSpeed, real ranks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from remora.catalog import llm
from remora.data.mixture import read_mixture
from remora.data.order import MixtureOrder
from remora.model.llm import create_from_scratch
from remora.model.refs import PartRef
from remora.model.seeds import seed_for
from remora.spec import Cluster, Stage
from remora.training import journal
from remora.training.job import StageJob
from support.launch import launch
from support.tiny import shrunk

RANKS = Path(__file__).with_name("ranks.py")
STEPS = 4


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """A stage of four steps on pictures and text-only records, all three parts training."""
    root = tmp_path_factory.mktemp("stage")
    data = root / "data"
    data.mkdir()
    from PIL import Image

    records = []
    for i in range(12):
        turns = [
            {"from": "human", "value": f"What number is this, {i}?"},
            {"from": "gpt", "value": f"number {i} " * (1 + i % 3)},
        ]
        record = {"id": str(i), "conversations": turns}
        if i % 3:  # every third record has no picture: ranks then hold unlike batches
            Image.new("RGB", (40, 30), (20 * i, 255 - 20 * i, 7 * i)).save(data / f"{i}.png")
            record["image"] = f"{i}.png"
            turns[0]["value"] = "<image>\n" + turns[0]["value"]
        records.append(record)
    (data / "records.json").write_text(json.dumps(records))
    entry = llm("demo-2m").model_copy(update={"config": shrunk(llm("demo-2m").config, 32, 48)})
    create_from_scratch(entry, ["USER: What number is this? ASSISTANT: number 1"] * 4, 0, root / "llm")
    stage = Stage(
        name="test",
        mixture=[{"path": str(data / "records.json")}],
        template="brief",
        tune={"vision": {"last": 2, "lr": 1e-4}, "connector": "full", "llm": "full"},
        batch=6,
        steps=STEPS,
        max_length=200,
        lr=3e-3,
        weight_decay=0.1,
        warmup=0.0,
        clip=0.5,
    )
    parts = {
        "vision": PartRef("efficientnet-lite0"),
        "connector": PartRef("mlp2x_gelu"),
        "llm": PartRef("demo-2m", root / "llm"),
    }
    datasets = [d.folder for d in read_mixture(stage.mixture, data)]
    return StageJob(
        stage, parts, root / "work", datasets, 0, Cluster(workers=1, zero=0, checkpoint_every=2, micro_batch=6)
    )


def run(job: StageJob, folder: Path, world: int, *flags: str, rc: int = 0, **cluster: object) -> dict[str, list[float]]:
    folder.mkdir(exist_ok=True)
    job = replace(job, folder=folder, cluster=job.cluster.model_copy(update={"workers": world, **cluster}))
    (folder / "job.json").write_text(job.to_json())
    launch(RANKS, world, folder / "job.json", folder / "out.json", *flags, rc=rc)
    return json.loads((folder / "out.json").read_text()) if rc == 0 else {}


@pytest.fixture(scope="module")
def reference(job: StageJob, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[float]], Path]:
    folder = tmp_path_factory.mktemp("reference") / "work"
    return run(job, folder, 1), folder


# fp32 sums in another order differ in the last bits; four steps of AdamW amplify that to a few 1e-6.
# The reference is packed, and so is one split; padded rows say how many passes a step has.
SPLITS = [
    pytest.param(1, {"micro_batch": 2, "rows": "padded"}, id="accumulation-3"),
    pytest.param(2, {"zero": 0, "micro_batch": 3}, id="2-ranks-zero-0"),
    pytest.param(2, {"zero": 1, "micro_batch": 2, "rows": "padded"}, id="2-ranks-zero-1-accumulation-2"),
    pytest.param(2, {"zero": 2, "micro_batch": 1, "rows": "padded"}, id="2-ranks-zero-2-accumulation-3"),
    pytest.param(
        2,
        {"zero": 3, "micro_batch": 2, "rows": "padded", "activation_checkpointing": True},
        id="2-ranks-zero-3-accumulation-2-checkpointing",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("world", "cluster"), SPLITS)
def test_a_split_changes_no_loss_and_no_weight(job, reference, tmp_path, world, cluster) -> None:
    expected, whole = reference
    got = run(job, tmp_path / "work", world, **cluster)
    assert got["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    assert got["norms"] == pytest.approx(expected["norms"], rel=1e-4)
    for part in ("connector", "llm", "vision"):
        a = load_file(whole / "parts" / part / "model.safetensors")
        b = load_file(tmp_path / "work" / "parts" / part / "model.safetensors")
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(
                b[name], a[name], rtol=1e-3, atol=2e-4, msg=lambda m, n=f"{part}.{name}": f"{n}: {m}"
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "exact"),
    [
        pytest.param((2, 2), (2, 2), True, id="same"),
        pytest.param((2, 2), (1, 0), False, id="2-to-1-rank-zero-2-to-0"),
        pytest.param((1, 0), (2, 3), False, id="1-to-2-ranks-zero-0-to-3"),
        pytest.param((2, 3), (2, 1), False, id="zero-3-to-1"),
    ],
)
def test_a_killed_run_goes_on_where_it_was(job, reference, tmp_path, before, after, exact) -> None:
    expected, _ = reference
    folder = tmp_path / "work"
    (world, zero), (world_after, zero_after) = before, after
    micro = 3
    run(job, folder, world, "--die-after", "2", rc=9, zero=zero, micro_batch=micro)
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-000002"]
    got = run(job, folder, world_after, zero=zero_after, micro_batch=micro)
    assert len(got["losses"]) == STEPS  # the journal holds every step once
    assert got["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    if exact:
        whole = run(job, tmp_path / "whole", world, zero=zero, micro_batch=micro)
        assert got["losses"] == whole["losses"]
        for part in ("connector", "llm", "vision"):
            a, b = (load_file(f / "parts" / part / "model.safetensors") for f in (tmp_path / "whole", folder))
            assert all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.slow
def test_a_process_that_was_thought_dead_changes_nothing_any_more(job, reference, tmp_path) -> None:
    folder = tmp_path / "work"
    with pytest.raises(AssertionError, match="another attempt at this stage has taken over"):
        run(job, folder, 1, "--overtaken-in", "2")
    steps = [e["step"] for e in journal.steps_of(folder / journal.JOURNAL)]
    assert steps == [0, 1]  # it took all four
    assert not (folder / "parts").exists()
    assert run(job, folder, 1) == reference[0]
    events = list(journal.read(folder / journal.JOURNAL))
    assert [e["step"] for e in events if e["event"] == "step"] == [0, 1, 2, 3]
    assert sum(e["event"] == "trained" for e in events) == 1


@pytest.mark.slow
def test_every_sample_is_learnt_from_once_an_epoch_through_kills_and_other_numbers_of_workers(job, tmp_path) -> None:
    """The samples of each step's backward passes, on 1, 2 and 1 workers, killed in between."""
    folder, cluster = tmp_path / "work", {"micro_batch": 2, "rows": "padded"}
    run(job, folder, 1, "--ledger", "a", "--die-in", "3", rc=9, **cluster)
    run(job, folder, 2, "--ledger", "b", "--die-in", "3", rc=9, **cluster)
    run(job, folder, 1, "--ledger", "c", **cluster)
    ledger: dict[str, dict[int, list[int]]] = {}
    for file in folder.glob("ledger-*.jsonl"):
        for line in map(json.loads, file.read_text().splitlines()):
            ledger.setdefault(file.name[7], {}).setdefault(line["step"], []).extend(line["positions"])
    assert {name: sorted(steps) for name, steps in ledger.items()} == {"a": [0, 1, 2], "b": [2], "c": [2, 3]}
    for steps in ledger.values():  # a step that is taken again reads what it read
        assert all(sorted(read) == list(range(6 * step, 6 * step + 6)) for step, read in steps.items())
    order = MixtureOrder([12], [1.0], seed_for(job.seed, f"order/{job.stage.name}"))
    learnt = [order[p] for step in range(4) for p in (ledger["c"].get(step) or ledger["a"][step])]
    assert sorted(learnt[:12]) == sorted(learnt[12:]) == [(0, i) for i in range(12)]


@pytest.fixture(scope="module")
def lora_job(job: StageJob) -> StageJob:
    lora = {"lora": {"r": 4, "alpha": 8, "dropout": 0.2}, "lr": 1e-2}
    stage = Stage.model_validate(
        {**job.stage.model_dump(), "tune": {"vision": "frozen", "connector": "full", "llm": lora}}
    )
    return replace(job, stage=stage)


@pytest.fixture(scope="module")
def lora_reference(lora_job: StageJob, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[float]], Path]:
    folder = tmp_path_factory.mktemp("lora") / "work"
    return run(lora_job, folder, 1), folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "cluster"),
    [
        pytest.param(2, {"zero": 2, "micro_batch": 2, "rows": "padded"}, id="2-ranks-zero-2-accumulation-2"),
        pytest.param(2, {"zero": 3, "micro_batch": 3}, id="2-ranks-zero-3"),
        pytest.param(2, {"zero": 2, "micro_batch": 3, "activation_checkpointing": True}, id="2-ranks-checkpointing"),
    ],
)
def test_adapters_and_their_dropout_are_the_same_in_any_split(
    lora_job, lora_reference, tmp_path, world, cluster
) -> None:
    expected, whole = lora_reference
    got = run(lora_job, tmp_path / "work", world, **cluster)
    assert got["losses"] == pytest.approx(expected["losses"], rel=1e-5)
    a, b = (load_file(f / "parts" / "llm" / "adapter_model.safetensors") for f in (whole, tmp_path / "work"))
    assert a.keys() == b.keys() and all("lora_" in name for name in a)
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=2e-4)


@pytest.mark.slow
def test_adapters_go_on_after_a_kill_and_into_the_next_stage(lora_job, lora_reference, tmp_path) -> None:
    expected, whole = lora_reference
    folder = tmp_path / "work"
    run(lora_job, folder, 1, "--die-after", "2", rc=9)
    assert run(lora_job, folder, 1) == expected
    base, adapter = lora_job.parts["llm"], whole / "parts" / "llm"
    merged = replace(base, adapters=(adapter,))
    parts = {
        **lora_job.parts,
        "llm": merged,
        "connector": replace(lora_job.parts["connector"], folder=whole / "parts" / "connector"),
    }
    later = run(replace(lora_job, parts=parts), tmp_path / "later", 1)
    assert later["losses"][0] < expected["losses"][0]  # it starts from the trained adapter
    without = run(replace(lora_job, parts={**parts, "llm": base}), tmp_path / "without", 1)
    assert later["losses"][0] != pytest.approx(without["losses"][0], rel=1e-3)


@pytest.mark.slow
def test_a_base_of_4_bits_trains_under_zero_2_and_is_refused_under_zero_3(lora_job, lora_reference, tmp_path) -> None:
    tune = lora_job.stage.tune.model_dump()
    tune["llm"]["lora"]["bits"] = 4
    job = replace(lora_job, stage=Stage.model_validate({**lora_job.stage.model_dump(), "tune": tune}))
    losses, full = run(job, tmp_path / "work", 1, zero=2)["losses"], lora_reference[0]["losses"]
    assert losses != full and losses == pytest.approx(full, rel=0.1)  # NF4 rounds weights by some percent
    assert losses[-1] < losses[0]
    with pytest.raises(AssertionError, match="ZeRO 3 cannot split weights of 4 or 8 bits"):
        run(job, tmp_path / "refused", 1, zero=3)
