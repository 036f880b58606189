"""The dry run before a stage: it bounds the stage's memory, leaves no trace, and says what fits if it runs out of
memory."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from remora import catalog
from remora.data.mixture import read_mixture
from remora.model.llm import create_from_scratch
from remora.model.patches.attention import attend_per_sample
from remora.model.refs import PartRef
from remora.reading.batches import StageData
from remora.reading.prompt import Prompter
from remora.spec import Cluster, Stage
from remora.training.job import StageJob
from remora.training.journal import JOURNAL, read
from remora.training.rehearsal import passes
from support.launch import launch
from support.standins import small_llm

RANKS, SHORT = (Path(__file__).with_name(name) for name in ("ranks.py", "short_ranks.py"))
CONTEXT = 2048


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty records with none, one or two pictures, of one to four words, and one of forty."""
    root = tmp_path_factory.mktemp("records")
    said = []
    for i in range(20):
        shown = i % 3
        turns = [
            {"from": "human", "value": "<image>\n" * shown + f"What is {i}?"},
            {"from": "gpt", "value": "number " * (40 if i == 7 else 1 + i % 4)},
        ]
        images = [f"{i}-{n}.png" for n in range(shown)]
        for n, name in enumerate(images):
            Image.new("RGB", (8, 8), (12 * i, 99 * n, 9)).save(root / name)
        said.append({"id": str(i), "conversations": turns} | ({"image": images} if images else {}))
    (root / "records.json").write_text(json.dumps(said))
    return root


def stage_of(records: Path, **more: object) -> Stage:
    settings = {"name": "test", "template": "brief", "lr": 3e-3, "steps": 4, "batch": 8, "max_length": 64} | more
    return Stage.model_validate({"mixture": [{"path": str(records / "records.json")}], **settings})


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rows", ["packed", "padded"])
@pytest.mark.parametrize(("world", "micro"), [(1, 8), (1, 3), (2, 2), (3, 16)])
def test_no_pass_of_the_stage_is_larger_than_the_largest_rehearsed(records, tiny_tokenizer, rows, world, micro):
    stage, image_tokens = stage_of(records, steps=20), 4
    prompter = Prompter(catalog.template("brief"), tiny_tokenizer, image_tokens)
    data = StageData(stage, read_mixture(stage.mixture, records), prompter, "efficientnet-lite0", 0)
    tried = passes(data, Cluster(rows=rows, micro_batch=micro), world, image_tokens)
    batches = [
        b for step in range(20) for rank in range(world) for b in data.read(step, rank, world, micro, rows).batches
    ]
    assert max(b.mask.numel() for b in batches) <= tried[-1].tokens
    assert max(len(b.pixels) for b in batches) <= tried[-1].pictures
    # And not by much: blocks of memory that no pass takes would refuse stages that fit.
    assert tried[-1].samples == min(micro, -(-8 // world)) and tried[-1].pictures <= 8 * 2


@pytest.mark.sampled(3)
@pytest.mark.parametrize("beside", [{}, {"past_context": True}], ids=["context", "past-context"])
@pytest.mark.parametrize("rows", ["packed", "padded"])
@pytest.mark.parametrize(("world", "micro"), [(1, 1), (1, 3), (3, 16)])
@pytest.mark.parametrize(("length", "context"), [(64, 2048), (64, 120), (64, 64)])
def test_where_pictures_do_not_count_samples_are_bounded_by_the_context(
    records, tiny_tokenizer, rows, world, micro, length, context, beside
):
    image_tokens = 60  # two of them are nearly twice the length
    stage = stage_of(records, steps=20, max_length=length, count_pictures=False, **beside)
    prompter = Prompter(catalog.template("brief"), tiny_tokenizer, image_tokens)
    data = StageData(stage, read_mixture(stage.mixture, records), prompter, "efficientnet-lite0", 0, context)
    tried = passes(data, Cluster(rows=rows, micro_batch=micro), world, image_tokens)
    batches = [
        b for step in range(20) for rank in range(world) for b in data.read(step, rank, world, micro, rows).batches
    ]
    sizes = [n for b in batches for n in (b.lengths or b.mask.sum(1).tolist())]
    # A step reads each sample that fits whole, with its pictures beside its text; the others are one token, or nothing.
    whole = {len(prompter.encode(s.turns).ids): len(s.images) * (image_tokens - 1) for s in data.samples[0]}
    fits = {n for n, more in whole.items() if n - more <= min(length, context) and (beside or n <= context)}
    assert set(sizes) - {1} <= fits and max(sizes) == max(fits)
    assert beside or max(sizes) <= context
    if context > 64 or beside:
        assert max(sizes) > length  # pictures came on top
    assert max(b.mask.numel() for b in batches) <= tried[-1].tokens
    assert max(len(b.pixels) for b in batches) <= tried[-1].pictures
    assert max(sizes) <= tried[-1].length <= min(length, context) + 2 * (image_tokens - 1)
    assert tried[-1].tokens <= max(min(micro, -(-8 // world)), 1) * tried[-1].length


@pytest.mark.parametrize("beside", [{}, {"count_pictures": False}], ids=["counted", "beside"])
@pytest.mark.parametrize("rows", ["packed", "padded"])
def test_a_rehearsed_pass_is_a_batch_that_the_model_reads(tiny_model, records, tiny_tokenizer, rows, beside):
    attend_per_sample(tiny_model.llm)
    stage = stage_of(records, max_length=48, **beside)
    prompter = Prompter(catalog.template("brief"), tiny_tokenizer, tiny_model.image_tokens)
    data = StageData(stage, read_mixture(stage.mixture, records), prompter, "efficientnet-lite0", 0, 64)
    for one in passes(data, Cluster(rows=rows, micro_batch=4), 1, tiny_model.image_tokens):
        batch = one.batch(tiny_model, rows == "packed")
        assert batch.mask.numel() == one.tokens and len(batch.pixels) == one.pictures
        shown = one.pictures * tiny_model.image_tokens
        assert one.length == (50 if beside else 48)  # two pictures, a token more for each
        samples = len(batch.lengths) or one.samples
        assert batch.supervised == one.tokens - samples  # a sample's first token is never predicted
        assert int((batch.ids < 0).sum()) == shown
        assert tiny_model(batch).item() > 0


@pytest.fixture(scope="module")
def job(records: Path, tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    root = tmp_path_factory.mktemp("rehearsed")
    entry = small_llm(catalog.llm("tinyllama-1.1b-chat"))
    create_from_scratch(entry, ["USER: What number is it? ASSISTANT: number 1"] * 4, 0, root / "llm")
    parts = {
        "vision": PartRef("efficientnet-lite0"),
        "connector": PartRef("mlp2x_gelu"),
        "llm": PartRef("tinyllama-1.1b-chat", root / "llm"),
    }
    stage = stage_of(records, max_length=150, tune={"vision": {"last": 2}, "connector": "full", "llm": "full"})
    datasets = [d.folder for d in read_mixture(stage.mixture, records)]
    cluster = Cluster(workers=2, micro_batch=3, checkpoint_every=1000)
    return StageJob(stage, parts, root / "work", datasets, 0, cluster)


def run(script: Path, job: StageJob, *args: object, rc: int = 0, fresh: bool = False) -> None:
    job.folder.mkdir(exist_ok=True)
    (job.folder / "job.json").write_text(job.to_json())
    # Each arena of malloc reserves 64 MiB of address space, and how many there are depends on how threads meet.
    launch(script, 2, job.folder / "job.json", *args, rc=rc, env={"MALLOC_ARENA_MAX": "1"}, fresh=fresh)


@pytest.mark.slow
def test_a_rehearsal_leaves_no_trace(job, tmp_path) -> None:
    kinds = {f"{rows}-{zero}": {"rows": rows, "zero": zero} for zero in (0, 1, 2, 3) for rows in ("packed", "padded")}
    kinds["offload"] = {"zero": 2, "offload": "optimizer"}
    pairs = {f"{name}-{said}": how | {"rehearse": said} for name, how in kinds.items() for said in (False, True)}
    run(RANKS, replace(job, folder=tmp_path), tmp_path / "out.json", "--settings", json.dumps(pairs))
    for name in kinds:
        plain, rehearsed = (list(read(tmp_path / f"{name}-{said}" / JOURNAL)) for said in (False, True))
        figures = [
            [(e["loss"], e["grad_norm"]) for e in events if e["event"] == "step"] for events in (plain, rehearsed)
        ]
        assert len(figures[0]) == 4 and figures[0] == figures[1], name
        assert not [e for e in plain if e["event"] == "rehearsed"]
        (event,) = [e for e in rehearsed if e["event"] == "rehearsed"]
        assert event["tokens"] == 3 * 150 and event["pictures"] > 0 and event["memory"] > 0


@pytest.fixture(scope="module")
def wide(records: Path, tmp_path_factory: pytest.TempPathFactory) -> StageJob:
    """A text-only stage whose activations outweigh its weights: 32,768 tokens take 700 MB, 2,048 take 50."""
    root = tmp_path_factory.mktemp("wide")
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "number 1"}]
    said = [{"id": str(i), "conversations": turns} for i in range(40)]
    (root / "records.json").write_text(json.dumps(said))
    entry = small_llm(catalog.llm("tinyllama-1.1b-chat"))
    entry = entry.model_copy(update={"config": entry.config | {"hidden_size": 128, "intermediate_size": 512}})
    create_from_scratch(entry, ["USER: What number is it? ASSISTANT: number 1"] * 4, 0, root / "llm")
    tune = {"vision": "absent", "connector": "absent", "llm": "full"}
    stage = stage_of(root, batch=32, steps=1, max_length=CONTEXT, tune=tune)
    datasets = [d.folder for d in read_mixture(stage.mixture, root)]
    parts = {"llm": PartRef("tinyllama-1.1b-chat", root / "llm")}
    cluster = Cluster(workers=2, micro_batch=16, rehearse=True)
    return StageJob(stage, parts, root / "work", datasets, 0, cluster)


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "poor"), [(2, 1), (3, 0)])
def test_all_ranks_say_what_fits_when_one_runs_out_of_memory(wide, tmp_path, zero, poor) -> None:
    cluster, room = wide.cluster.model_copy(update={"zero": zero}), 400  # of which ZeRO 2's buckets take 200
    # Fresh: what a fork's allocator holds already would be room that the limit does not count.
    run(SHORT, replace(wide, folder=tmp_path, cluster=cluster), poor, room, rc=1, fresh=True)
    refusals = [(tmp_path / f"refused-{rank}.txt").read_text() for rank in range(2)]
    assert refusals[0] == refusals[1]
    assert f"ran out on rank {poor} with" in refusals[0] and "activation_checkpointing: true" in refusals[0]
    (fits,) = re.findall(r"micro_batch: (\d+) \(tried, it fits\)", refusals[0])
    assert 1 <= int(fits) < 16
    assert not [e for e in read(tmp_path / JOURNAL) if e["event"] in ("step", "rehearsed")]

    # What the allocator reserves on top differs by 100 MiB from run to run, as much as a size next to the limit takes.
    smaller = cluster.model_copy(update={"micro_batch": int(fits)})
    run(SHORT, replace(wide, folder=tmp_path, cluster=smaller), poor, room + 200, fresh=True)
    assert [e["event"] for e in read(tmp_path / JOURNAL)][-3:] == ["rehearsed", "step", "trained"]
