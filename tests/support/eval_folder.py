"""The twelve published benchmarks in their distributed files' layouts, with three small pictures each."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from PIL import Image

COUNTS = {
    "vqav2": 6, "gqa": 6, "vizwiz": 3, "scienceqa": 4, "textvqa": 3, "pope": 18, "mme": 12, "mmbench": 6, "seed": 6,
    "mmmu": 4, "mmvet": 3, "llava-bench": 3,
}  # fmt: skip
"""Questions of each."""


def write_eval_folder(root: Path) -> Path:
    """`root`, filled as playground/data/eval is, with files as the benchmarks' makers distribute them."""
    for make in (
        _vqav2,
        _gqa,
        _vizwiz,
        _scienceqa,
        _textvqa,
        _pope,
        _mme,
        _mmbench,
        _seed,
        _mmmu,
        _mmvet,
        _llava_bench,
    ):
        make(root)
    return root


def _picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (-2 + number / 3, -1.5, 1, 1.5)
    Image.effect_mandelbrot((48 + number, 40), shape, 20).convert("RGB").save(path)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _lines(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _people(said: str) -> list[dict[str, Any]]:
    return [{"answer": said, "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)]


def _vqav2(root: Path) -> None:
    folder, asked, known = root / "vqav2", [], []
    for i in range(6):
        _picture(folder / "val2014" / f"COCO_val2014_{i % 3:012d}.jpg", i % 3)
        asked.append({"image_id": i % 3, "question": f"Is it {i}?", "question_id": i})
        about = {"question_type": "is it", "answer_type": "yes/no", "multiple_choice_answer": "yes"}
        known.append({**about, "answers": _people("yes"), "image_id": i % 3, "question_id": i})
    _write(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"data_subtype": "val2014", "questions": asked})
    _write(folder / "v2_mscoco_val2014_annotations.json", {"data_subtype": "val2014", "annotations": known})


def _gqa(root: Path) -> None:
    asked = {}
    for i in range(6):
        _picture(root / "gqa" / "images" / f"n{i % 3}.jpg", i % 3)
        kinds = {"detailed": "x", "semantic": "attr", "structural": "query" if i % 2 else "verify"}
        about = {"semantic": [], "isBalanced": True, "groups": {}, "types": kinds, "fullAnswer": "It is red."}
        asked[f"q{i}"] = {"question": f"What is {i}?", "imageId": f"n{i % 3}", "answer": "red", **about}
    _write(root / "gqa" / "testdev_balanced_questions.json", asked)


def _vizwiz(root: Path) -> None:
    rows = []
    for i in range(3):
        name = f"VizWiz_val_{i:08d}.jpg"
        _picture(root / "vizwiz" / "val" / name, i)
        people = [{"answer": "tea", "answer_confidence": "yes"}] * 10
        rows.append({"image": name, "question": "What?", "answers": people, "answer_type": "other", "answerable": 1})
    _write(root / "vizwiz" / "val.json", rows)


def _scienceqa(root: Path) -> None:
    problems = {}
    for i in range(1, 5):
        image = "image.png" if i < 4 else None
        if image:
            _picture(root / "scienceqa" / "images" / "test" / str(i) / image, i)
        about = {
            "task": "closed choice",
            "grade": "grade2",
            "subject": "natural science",
            "topic": "x",
            "split": "test",
        }
        rest = {"category": "c", "skill": "s", "lecture": "", "solution": ""}
        asked = {"question": "Which?", "choices": ["cat", "dog"], "answer": i % 2, "hint": "A hint." if i == 2 else ""}
        problems[str(i)] = {**asked, "image": image, **about, **rest}
    _write(root / "scienceqa" / "problems.json", problems)
    _write(root / "scienceqa" / "pid_splits.json", {"test": list(problems)})


def _textvqa(root: Path) -> None:
    rows, lines = [], []
    for i in range(3):
        _picture(root / "textvqa" / "train_images" / f"img{i}.jpg", i)
        about = {"question_id": 100 + i, "image_id": f"img{i}", "set_name": "val", "question_tokens": []}
        rows.append({**about, "question": f"what is {i}?", "answers": ["stop"] * 10})
        text = f"What is {i}?\nReference OCR token: STOP, X\nAnswer the question using a single word or phrase."
        lines.append({"question_id": f"img{i}", "image": f"img{i}.jpg", "text": text, "category": "default"})
    _write(root / "textvqa" / "TextVQA_0.5.1_val.json", {"dataset_name": "textvqa", "data": rows})
    _lines(root / "textvqa" / "llava_textvqa_val_v051_ocr.jsonl", lines)


def _pope(root: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        rows = []
        for i in range(6):
            name = f"COCO_val2014_{i % 3:012d}.jpg"
            _picture(root / "pope" / "val2014" / name, i % 3)
            asked = f"Is there a {split} {i} in the image?"
            rows.append({"question_id": i + 1, "image": name, "text": asked, "label": "yes" if i % 2 else "no"})
        _lines(root / "pope" / "coco" / f"coco_pope_{split}.json", rows)


def _mme(root: Path) -> None:
    release = root / "MME" / "MME_Benchmark_release_version"
    asked = "Is it {}? Please answer yes or no.\tYes\nIs it not {}? Please answer yes or no.\tNo\n"
    for i in range(3):
        _picture(release / "existence" / f"{i}.jpg", i)
        (release / "existence" / f"{i}.txt").write_text(asked.format(i, i))
        _picture(release / "posters" / "images" / f"tt{i}.png", i)
        texts = release / "posters" / "questions_answers_YN"
        texts.mkdir(exist_ok=True)
        (texts / f"tt{i}.txt").write_text(asked.format(i, i))


def _mmbench(root: Path) -> None:
    folder = root / "mmbench"
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category"]
    rows = ["\t".join([*columns, "comment", "split"])]
    for i in range(3):
        _picture(folder / "a.jpg", i)
        image = base64.b64encode((folder / "a.jpg").read_bytes()).decode()
        (folder / "a.jpg").unlink()
        for k, (texts, answer) in enumerate(((("cat", "dog"), "A"), (("dog", "cat"), "B"))):
            cells = [str(i + 1_000_000 * k), "What is it?", "nan", *texts, "nan", "nan", answer, "ocr", image, "x"]
            rows.append("\t".join([*cells, "coarse_perception", "nan", "dev"]))
    (folder / "mmbench_dev_20230712.tsv").write_text("\n".join(rows) + "\n")


def _seed(root: Path) -> None:
    folder, rows = root / "seed_bench", []
    for i in range(6):
        video = i == 5
        about = {"answer": "ABCD"[i % 4], "question": "What?", "question_id": str(100 + i), "question_type_id": 1 + i}
        kind = {"data_type": "video", "data_id": "v.mp4", "question_type_id": 10} if video else {"data_type": "image"}
        choices = {f"choice_{c}": f"thing {c}" for c in "abcd"}
        rows.append({**about, "data_id": f"{i}_x", **choices, **kind})
        if not video:
            _picture(folder / "SEED-Bench-image" / f"{i}_x.png", i)
            (folder / "SEED-Bench-image" / f"{i}_x.png").rename(folder / "SEED-Bench-image" / f"{i}_x")
    kinds = {"Scene Understanding": 1, "Instance Identity": 2, "Instance Attributes": 3, "Instance Location": 4}
    kinds |= {"Instances Counting": 5, "Spatial Relation": 6, "Instance Interaction": 7, "Visual Reasoning": 8}
    kinds |= {"Text Understanding": 9, "Action Recognition": 10, "Action Prediction": 11, "Procedure Understanding": 12}
    _picture(folder / "SEED-Bench-video-image" / "10_105.png", 5)
    _write(folder / "SEED-Bench.json", {"questions": rows, "question_type": kinds})


def _mmmu(root: Path) -> None:
    folder, rows = root / "MMMU", []
    _picture(folder / "a.png", 1)
    content = {"bytes": (folder / "a.png").read_bytes(), "path": None}
    (folder / "a.png").unlink()
    for i in range(1, 5):
        choice = i < 4
        about = {
            "id": f"validation_Art_{i}",
            "question": "<image 1> What is it?",
            "explanation": "",
            "img_type": "['x']",
        }
        answer = {"answer": "B" if choice else "7", "question_type": "multiple-choice" if choice else "open"}
        rest = {
            "img_type": "['x']",
            "options": "['cat', 'dog']" if choice else "[]",
            "topic_difficulty": "Easy",
            "subfield": "x",
        }
        images = {f"image_{k}": content if k == 1 else None for k in range(1, 8)}
        rows.append({**about, **answer, **rest, **images})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.Table.from_pylist(rows)
    for k in range(2, 8):
        table = table.drop(f"image_{k}").append_column(f"image_{k}", pa.nulls(len(rows), kind))
    (folder / "Art").mkdir(parents=True)
    pyarrow.parquet.write_table(table, folder / "Art" / "validation-00000-of-00001.parquet")


def _mmvet(root: Path) -> None:
    rows = {}
    for i in range(3):
        _picture(root / "mm-vet" / "images" / f"v1_{i}.png", i)
        asked = {"question": "What is it?", "answer": "a cat<AND>a mat", "capability": ["rec", "ocr"][: 1 + i % 2]}
        rows[f"v1_{i}"] = {"imagename": f"v1_{i}.png", "imagesource": "", **asked}
    _write(root / "mm-vet" / "mm-vet.json", rows)


def _llava_bench(root: Path) -> None:
    folder = root / "llava-bench-in-the-wild"
    kinds = ("conv", "detail", "complex")
    for i in range(3):
        _picture(folder / "images" / f"00{i}.jpg", i)
    asked = [{"question_id": i, "image": f"00{i}.jpg", "category": k, "text": "What?"} for i, k in enumerate(kinds)]
    _lines(folder / "questions.jsonl", asked)
    _lines(folder / "context.jsonl", [{"id": f"00{i}", "image": f"00{i}.jpg", "caption": "A thing."} for i in range(3)])
    _lines(folder / "answers_gpt4.jsonl", [{"question_id": i, "text": "It is a thing."} for i in range(3)])
