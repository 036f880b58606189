"""`remora data show`: a variant's stages in their order, or a dataset in file order; and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from remora import catalog
from remora.cli import main
from remora.data.mixture import read_mixture
from remora.model.llm import load_tokenizer, train_tokenizer
from remora.model.seeds import seed_for
from remora.reading.batches import StageData
from remora.reading.prompt import Prompter
from remora.runs import Store, path, resolve_stages
from remora.spec import Cluster, Variant, load
from remora.training.build import first_words, make_start

VARIANT = """
vision: efficientnet-lite0
connector: mlp2x_gelu
llm: demo-2m
recipe: base
seed: 3
overrides:
  language: {{mixture: [{{path: {words}}}], template: brief, steps: 2, batch: 4}}
  align: {{mixture: [{{path: {data}}}], template: plain, steps: 2, batch: 4, lr: 1.0e-3}}
  finetune: {{mixture: [{{path: {data}}}, {{path: {words}}}], template: brief, epochs: 1, batch: 4, max_length: 60}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A variant from scratch over six pictures and six conversations without one."""
    records, words = [], []
    for i in range(6):
        Image.new("RGB", (30, 20), (40 * i, 9, 200)).save(tmp_path / f"{i}.png")
        asked = [{"from": "human", "value": f"<image>\nWhat is {i}?"}, {"from": "gpt", "value": f"thing {i}"}]
        records.append({"id": f"p{i}", "image": f"{i}.png", "conversations": asked})
        words.append({"id": f"w{i}", "conversations": [asked[0] | {"value": f"Count {i}"}, asked[1]]})
    (tmp_path / "train.json").write_text(json.dumps(records))
    (tmp_path / "words.json").write_text(json.dumps(words))
    file = tmp_path / "variant.yaml"
    file.write_text(VARIANT.format(data=tmp_path / "train.json", words=tmp_path / "words.json"))
    return file


def show(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    main(["data", "show", *map(str, argv)])
    return capsys.readouterr().out


def refused(*argv: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["data", "show", *map(str, argv)])
    message = str(caught.value.code)
    assert message.startswith("remora: ") and "\n" not in message
    return message


def ids_of(said: str) -> list[str]:
    return [line.rpartition(" · id ")[2] for line in said.splitlines() if " · id " in line]


@pytest.mark.slow
def test_a_variants_stages_in_the_order_in_which_they_read(spec, tmp_path, capsys):
    said = show(capsys, spec, "--runs", tmp_path / "runs", "-n", 4)
    assert "demo-2m has no tokenizer before stage 'language' has run; trained here as that stage will, on 6" in said
    variant, store = load(Variant, spec), Store(tmp_path / "runs")
    parts = said.split("\nstage ")[1:]
    assert [p.split()[0] for p in parts] == ["language", "align", "finetune"]
    first = path(variant, store.data)[0]
    tokenizer = train_tokenizer(first_words(first.stage, first.datasets), catalog.llm("demo-2m").vocabulary)
    for stage, part in zip(resolve_stages(variant), parts, strict=True):
        made = Prompter(catalog.template(stage.template), tokenizer, 9)
        data = StageData(
            stage, read_mixture(stage.mixture, store.data), made, None, seed_for(variant.seed, f"order/{stage.name}")
        )
        assert ids_of(part) == [data.sample(p).id for p in range(4)]


@pytest.mark.slow
def test_more_positions_another_seed_and_one_stage(spec, tmp_path, capsys):
    runs = ("--runs", tmp_path / "runs", "--stage", "align")
    first = ids_of(show(capsys, spec, *runs, "-n", 8))
    assert len(first) == 8
    assert ids_of(show(capsys, spec, *runs, "-n", 3, "--from", 4)) == first[4:7]
    assert ids_of(show(capsys, spec, *runs, "-n", 8, "--seed", 3)) == first
    assert ids_of(show(capsys, spec, *runs, "-n", 8, "--seed", 4)) != first
    assert ids_of(show(capsys, spec, *runs, "-n", 99)) == first  # two steps of four, and no more


def test_the_tokenizer_of_a_stage_that_has_begun_or_run_is_taken(spec, tmp_path, capsys):
    store = Store(tmp_path / "runs")
    run = path(load(Variant, spec), store.data)[0]
    assert store.llm_folder(run) is None
    before = show(capsys, spec, "--runs", store.runs, "--tokens")
    make_start(store.prepare(run, Cluster()))
    folder = store.llm_folder(run)
    assert folder == store.work(run) / "start" / "llm" and load_tokenizer(folder)
    said = show(capsys, spec, "--runs", store.runs, "--tokens")
    assert "trained here" in before and "trained here" not in said
    assert before[before.index("stage language =") :] == said[said.index("stage language =") :]


def test_a_page_holds_every_stage(spec, tmp_path, capsys):
    said = show(capsys, spec, "--runs", tmp_path / "runs", "-n", 2, "--html", tmp_path / "page.html")
    assert "page.html: 6 samples" in said
    page = (tmp_path / "page.html").read_text()
    assert [f"<h2>stage {name}</h2>" in page for name in ("language", "align", "finetune")] == [True] * 3
    assert page.count("what the encoder sees,") >= 2 and "tokens of its first 6 samples" in page


def test_a_dataset_as_it_lies(spec, tmp_path, capsys):
    said = show(capsys, tmp_path / "train.json", "-n", 2, "--from", 3)
    assert "3 · " in said and "record 3 · id p3" in said and "record 4 · id p4" in said and "p5" not in said
    assert "question: <image" in said and "answer: thing 3" in said and "⟦" not in said
    assert not (tmp_path / "runs").exists() and not list(tmp_path.rglob("index.json"))  # nothing is built


def test_a_record_that_is_none_is_shown_with_what_is_wrong(tmp_path, capsys):
    (tmp_path / "bad.json").write_text(json.dumps([{"conversations": [{"from": "gpt", "value": "x"}]}, "junk"]))
    said = show(capsys, tmp_path / "bad.json")
    assert "a training run stops here: unknown-role" in said or "turn-order: turn 0 is from 'gpt'" in said
    assert "no-conversation" in said and "; the record is 'junk'" in said.replace("\n", " ")
    assert said.count("a training run stops here: ") == 2  # a line for the problem, none for the record


def test_a_dataset_rendered_by_a_choice(spec, tmp_path, capsys, tiny_tokenizer, monkeypatch):
    tiny_tokenizer.save_pretrained(tmp_path / "llm")
    monkeypatch.setattr("remora.commands.samples.pretrained_folder", lambda name, entry, cache: tmp_path / "llm")
    said = show(capsys, tmp_path / "train.json", "-n", 1, "--template", "brief", "--llm", "phi-2")
    assert "<image × 576: " in said and "30 x 20 → 336 x 336>" in said and "⟦ thing 0⟨</s>⟩⟧" in said


def test_what_it_refuses(spec, tmp_path):
    runs = ("--runs", tmp_path / "runs")
    assert "--stage fintune: no such stage; did you mean 'finetune'?" in refused(spec, *runs, "--stage", "fintune")
    assert "--template: a variant's stages define it" in refused(spec, *runs, "--template", "brief")
    assert "--seed: a dataset has no stages" in refused(tmp_path / "train.json", "--seed", 1)
    assert "a prompt needs both" in refused(tmp_path / "train.json", "--template", "brief")
    assert "-n 0 --from 0" in refused(tmp_path / "train.json", "-n", 0)
    assert "has no such record" in refused(tmp_path / "train.json", "--from", 6)
    assert "reads 8 samples" in refused(spec, *runs, "--stage", "align", "--from", 8)
    assert "missing dataset file" in refused(tmp_path / "none.json")
    assert "llm 'demo-2m' has no tokenizer without a variant" in refused(
        tmp_path / "train.json", "--template", "brief", "--llm", "demo-2m"
    )
