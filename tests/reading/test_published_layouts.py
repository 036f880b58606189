"""Every published layout of the catalog, a few records each, from the check to a stage's batch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from remora import catalog
from remora.cli import main
from remora.data.check import check_dataset
from remora.data.layout import count_differences, layout
from remora.data.mixture import locate, open_entry, read_mixture
from remora.errors import DataError
from remora.reading.batches import StageData
from remora.reading.prompt import Prompter
from remora.runs import resolve_stages
from remora.spec import MixtureEntry, Stage, Variant

NAMED = {
    "llava-pretrain-558k": ["00453/004539375.jpg", "00223/002239345.jpg"],
    "llava-mix-665k": [
        "coco/train2017/000000033471.jpg",
        "gqa/images/2354786.jpg",
        "ocr_vqa/images/140031996.jpg",
        "textvqa/train_images/11dbfe0d7f4c6f5f.jpg",
        "vg/VG_100K/2.jpg",
        "vg/VG_100K_2/1.jpg",
        None,
    ],
    "sharegpt4v-pt-1246k": [
        "sam/images/sa_545504.jpg",
        "coco/train2017/000000000009.jpg",
        "llava/llava_pretrain/images/00453/004539375.jpg",
    ],
    "sharegpt4v-mix-665k": [
        "coco/train2017/000000000009.jpg",
        "gqa/images/1.jpg",
        "ocr_vqa/images/2.jpg",
        "textvqa/train_images/3.jpg",
        "vg/VG_100K/4.jpg",
        "vg/VG_100K_2/5.jpg",
        "llava/llava_pretrain/images/00453/004539375.jpg",
        "sam/images/sa_1.jpg",
        "share_textvqa/images/6.jpg",
        "web-celebrity/images/7.jpg",
        "web-landmark/images/8.jpg",
        "wikiart/images/9.jpg",
        None,
    ],
    "llava-cc3m-595k": ["GCC_train_002582585.jpg"],
    "llava-instruct-158k": ["000000033471.jpg"],
    "sharegpt-40k": [None],
    "bunny-llava-1.4m": ["1.jpg", None],
    "bunny-allava-1.3m": ["2.jpg"],
    "bunny-llava-allava-2m": ["3.jpg", None],
    "svit-mix-665k": [
        "coco/train2017/000000000009.jpg",
        "gqa/images/1.jpg",
        "ocr_vqa/images/2.jpg",
        "textvqa/train_images/3.jpg",
        "vg/VG_100K/4.jpg",
        "vg/VG_100K_2/5.jpg",
        None,
    ],
    "wizardlm-evol-70k": [None],
    "bunny-pretrain-laion-2m": ["0016fa7b5b8c4b3b.jpg", "1.jpg"],
    "bunny-695k": ["2407890.jpg", "3.jpg", None],
    "mobilevlm-v2-mix-2m": [
        "coco/train2017/000000000009.jpg",
        "gqa/images/1.jpg",
        "iconqa_data/iconqa/train/choose_img/2/image.png",
        "iconqa_data/iconqa/train/choose_txt/3/image.png",
        "iconqa_data/iconqa/train/fill_in_blank/4/image.png",
        "ocr_vqa/images/5.jpg",
        "sam/images/sa_1.jpg",
        "SBU/images/6.jpg",
        "ScienceQA/train/7/image.png",
        "share_textvqa/images/8.jpg",
        "textvqa/train_images/9.jpg",
        "vg/VG_100K/10.jpg",
        "vg/VG_100K_2/11.jpg",
        "web-celebrity/images/12.jpg",
        "web-landmark/images/13.jpg",
        "wikiart/images/14.jpg",
        None,
    ],
}
"""Pictures of records, as each set's JSON names them; None is a record without one."""
PUBLISHED = [name for name in catalog.entries("datasets") if not name.startswith(("demo-", "photos-"))]


def build(data: Path, name: str) -> None:
    """A handful of records and pictures, where the catalog's dataset has its own."""
    entry = catalog.dataset(name)
    records = []
    for i, picture in enumerate(NAMED[name]):
        said = [{"from": "human", "value": f"What is {i}?"}, {"from": "gpt", "value": f"a thing of {i}"}]
        record = {"id": f"{i:09}", "conversations": said}
        if picture:
            said[0]["value"] = "<image>\nWhat is it?" if i % 2 else "What is it?\n<image>"
            record["image"] = picture
            file = data / entry.images / picture
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 9), (10 * i, 90, 200)).save(file)
        else:
            record["model"] = "gpt4"  # ShareGPT's records have this key more
        records.append(record)
    (data / entry.path).parent.mkdir(parents=True, exist_ok=True)
    (data / entry.path).write_text(json.dumps(records))


def test_there_is_a_layout_for_every_published_dataset():
    assert set(NAMED) == set(PUBLISHED)


@pytest.mark.parametrize("name", NAMED)
def test_a_dataset_in_its_layout_is_checked_opened_and_batched(name, tmp_path, tiny_tokenizer):
    build(tmp_path, name)
    entry, named = MixtureEntry(dataset=name), NAMED[name]
    file, *folders = layout(catalog.dataset(name), tmp_path)
    assert not any(p.found in ("missing", "empty") for p in (file, *folders))
    # Every folder of the entry is used by a record, so none is misspelt.
    for folder in catalog.dataset(name).folders:
        assert folder.path == "." or any(p and p.startswith(folder.path + "/") for p in named), folder.path

    location, images, _ = locate(entry, tmp_path)
    report = check_dataset(location, images)
    assert (report.records, report.fatal, report.text_only) == (len(named), 0, named.count(None))
    assert sum(report.folders.values()) == len(named) - named.count(None)

    opened = open_entry(entry, tmp_path)
    assert len(opened) == len(named)
    stage = {
        "name": "s",
        "mixture": [{"dataset": name}],
        "template": "brief",
        "batch": len(named),
        "epochs": 1,
        "lr": 1,
    }
    checked, prompter = Stage.model_validate(stage), Prompter(catalog.template("brief"), tiny_tokenizer, 2)
    data = StageData(checked, read_mixture(checked.mixture, tmp_path), prompter, None, 1)
    data.encoder = catalog.vision("efficientnet-lite0").model_copy(update={"image_size": 8})
    read = data.read(0, 0, 1, len(named), "padded")
    (batch,) = read.batches
    assert len(batch.ids) == len(named) and len(batch.pixels) == len(named) - named.count(None)
    assert batch.supervised > len(named) and not read.dropped


def test_missing_folders_fewer_pictures_and_another_file_are_told(tmp_path):
    entry = catalog.dataset("sharegpt4v-mix-665k")
    assert all((p.found, p.good) == ("missing", False) for p in layout(entry, tmp_path))
    build(tmp_path, "sharegpt4v-mix-665k")
    (tmp_path / "sharegpt4v/wikiart/images/9.jpg").unlink()
    found = {str(p.path.relative_to(tmp_path / "sharegpt4v")): p for p in layout(entry, tmp_path)}
    assert found["wikiart/images"].found == "empty" and not found["wikiart/images"].good
    assert found["gqa/images"].found == "1 files, 148,854 published" and not found["gqa/images"].good
    assert found["sam/images"].found == "there" and found["sam/images"].good
    file = found[Path(entry.path).name]
    assert file.found.endswith("bytes, NOT the published") and not file.good
    right = entry.model_copy(update={"sha256": hashlib.sha256((tmp_path / entry.path).read_bytes()).hexdigest()})
    assert next(iter(layout(right, tmp_path))).good


def test_counts_that_differ_from_the_published_are_told():
    entry = catalog.dataset("llava-mix-665k")
    assert sum(f.records or 0 for f in entry.folders) + entry.text_only == entry.records
    folders = {
        "coco/train2017": 364_100,
        "gqa/images": 72_140,
        "ocr_vqa/images": 80_000,
        "textvqa/train_images": 21_953,
        "vg/VG_100K": 50_000,
        "vg/VG_100K_2": 36_417,
    }
    assert list(count_differences(entry, 665_298, 40_688, folders)) == []
    assert list(count_differences(entry, 665_000, 40_688, folders | {"gqa/images": 71_842})) == [
        "records: 665,298 published, 665,000 read",
        "records with pictures of gqa/images: 72,140 published, 71,842 read",
    ]
    assert not list(count_differences(catalog.dataset("bunny-695k"), 5, 1, {}))


def test_the_check_of_a_name_tells_the_layout_first(tmp_path, capsys):
    build(tmp_path / "data", "llava-mix-665k")
    main(["data", "check", "llava-mix-665k", "--runs", str(tmp_path)])
    said = capsys.readouterr().out
    assert said.index("gqa/images: 1 files, 148,854 published") < said.index("7 records (1 text only), 6 pictures")
    assert "records: 665,298 published, 7 read" in said and "vg: 86,417 published, 2 read" in said
    assert "nothing that would stop a training run" in said


@pytest.mark.parametrize("verb", ["check", "show"])
def test_a_missing_dataset_names_the_first_step_alone(verb, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["data", verb, "bunny-695k", "--runs", str(tmp_path)])
    assert str(caught.value.code) == (
        f"remora: missing dataset file: {tmp_path}/data/bunny/finetune/bunny_695k.json (dataset 'bunny-695k'); next: "
        f'hf download BoyaWu10/Bunny-v1_0-data --include "finetune/*" --repo-type dataset --local-dir '
        f"{tmp_path}/data/bunny (then: remora catalog datasets bunny-695k)"
    )


def test_missing_pictures_name_the_dataset_to_check(tmp_path):
    build(tmp_path, "bunny-695k")
    (tmp_path / "bunny/finetune/images/3.jpg").unlink()
    with pytest.raises(DataError, match=r"1 missing-image of 3 records\); .*remora data check bunny-695k"):
        open_entry(MixtureEntry(dataset="bunny-695k"), tmp_path)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_entry_prints_its_steps_ready_to_be_copied(name, tmp_path, capsys):
    main(["catalog", "datasets", name, "--runs", str(tmp_path)])
    said = capsys.readouterr().out
    entry = catalog.dataset(name)
    assert "{data}" not in said and all(f"  {step}\n" in said for step in entry.steps(tmp_path / "data"))
    for figure in (entry.records, *(f.records for f in entry.folders), *(f.pictures for f in entry.folders)):
        assert figure is None or f"{figure:,}" in said
    assert entry.sha256 is None or entry.sha256 in said
    assert entry.licence or "licence was not at hand" in " ".join(entry.source.split())
    # Entries that were never fully downloaded (`about`, or text only) have no file sizes.
    assert (entry.download and entry.folders) or entry.about or entry.text_only == entry.records


def test_a_step_may_be_one_command_and_a_digest_is_one(tmp_path):
    plain = {"path": "a.json", "images": "a", "make": "copy it", "source": "x"}
    assert catalog.DatasetEntry.model_validate(plain).steps(tmp_path) == ("copy it",)
    with pytest.raises(ValueError, match="sha256"):
        catalog.DatasetEntry.model_validate(plain | {"sha256": "abc"})


def test_an_empty_answer_of_the_published_mixture_is_left_out_and_said(tmp_path, capsys):
    """LLaVA-1.5's mixture is reported to have one (catalog): its recipes run on it and report it."""
    entry = catalog.dataset("llava-mix-665k")
    assert entry.skip == ("empty-answer",) and "245,723" in entry.known
    file = tmp_path / "data" / entry.path
    file.parent.mkdir(parents=True)
    said = [{"from": "human", "value": "Would it be a or b?"}, {"from": "gpt", "value": ""}]
    good = [said[0], {"from": "gpt", "value": "a"}]
    file.write_text(json.dumps([{"conversations": said}] + [{"conversations": good}] * 199))
    main(["data", "index", "llava-mix-665k", "--runs", str(tmp_path)])
    assert "llava-mix-665k: 1 of 200 records left out (1 empty-answer)" in capsys.readouterr().out
    variant = Variant(vision="clip-l-336", connector="mlp2x_gelu", llm="phi-2", recipe="llava-1.5")
    (align, finetune) = resolve_stages(variant)
    assert finetune.mixture[0].skip == ("empty-answer",) and align.mixture[0].skip == ()
    kept = open_entry(finetune.mixture[0], tmp_path / "data")
    assert (len(kept), kept.skipped) == (199, 1)
    file.write_text(json.dumps([{"conversations": said}] * 3 + [{"conversations": good}] * 197))
    with pytest.raises(DataError, match=r"3 of 200 records are skipped, more than max_skipped 0\.01 allows"):
        open_entry(finetune.mixture[0], tmp_path / "data")
    main(["catalog", "datasets", "llava-mix-665k", "--runs", str(tmp_path)])
    assert "left out: empty-answer" in capsys.readouterr().out
