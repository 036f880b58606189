"""MMMU: its layouts, prompts, answer files and upload, and files that are refused in one sentence."""

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from choice_junk import broken, mangled
from mmmu_cases import CHOSEN, records, split, write_answers, write_folder, write_lines
from PIL import Image

from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark, score

MMMU = benchmark("mmmu")
QUESTIONS = [
    {"id": "validation_Art_1", "question": "Who painted <image 1>?", "options": "['Monet', \"D'Arc\"]", "answer": "B"},
    {"id": "validation_Art_2", "question": "How many in <image 2>?", "options": "[]", "answer": "['3', 'three']"},
]


def hub(folder, found=QUESTIONS, split="validation"):
    """MMMU's Parquet, a folder for each subject."""
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(buffer, "PNG")
    shown = {"bytes": buffer.getvalue(), "path": "1.png"}
    rows = [
        row
        | {"question_type": "open" if row["options"] == "[]" else "multiple-choice", "image_1": shown, "image_2": shown}
        for row in found
    ]
    (folder / "Art").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "Art" / f"{split}-00000-of-00001.parquet")
    return folder


def test_prompts_are_those_of_llavas_configuration(tmp_path):
    choice, spoken = MMMU.questions(hub(tmp_path))
    assert choice.text == (
        "Who painted <image 1>?\n(A) Monet\n(B) D'Arc\n\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert spoken.text == "How many in <image 2>?\nAnswer the question using a single word or phrase."
    assert (choice.id, choice.max_new_tokens, choice.group) == ("validation_Art_1", 128, "validation_Art_1")
    assert [str(p)[-7:] for q in (choice, spoken) for p in q.pictures] == ["image_1", "image_1"]
    assert choice.pictures[0].open().getpixel((0, 0)) == (255, 0, 0)


def test_the_factorys_questions_are_asked_as_they_are(tmp_path):
    raw = [
        {"id": "validation_Art_1", "prompt": "P\n\n1", "image": "1.png", "question_type": "multiple-choice"},
        {"id": "validation_Art_2", "prompt": "P 2", "question_type": "short-answer"},
    ]
    (tmp_path / "anns_for_eval.json").write_text(json.dumps(raw))
    write_answers(tmp_path / "answer_dict_val.json", records(1))
    first, second, *others = MMMU.questions(tmp_path)
    assert (first.text, second.text, second.pictures, others) == ("P\n\n1", "P 2", (), [])
    assert str(first.pictures[0]) == str(tmp_path / "all_images" / "1.png")
    with pytest.raises(DataError, match="answers and not its questions"):
        MMMU.questions(tmp_path / "answer_dict_val.json")


def test_right_answers_come_from_the_hub_or_from_beside_the_questions(tmp_path):
    lines = tmp_path / "lines.jsonl"
    lines.write_text(
        '{"question_id": "validation_Art_1", "text": "(B) it is"}\n{"question_id": "validation_Art_2", "text": "THREE"}'
    )
    report = score(MMMU, hub(tmp_path / "hub"), lines)
    assert [(i.parsed, i.score, i.gold, i.labels) for i in report.items] == [
        ("B", 1.0, "B", ("Art", "Art and Design")),
        ("three", 1.0, "3 | three", ("Art", "Art and Design")),
    ]
    assert report.metrics == {"accuracy": 100, "accuracy.Art and Design": 100, "accuracy.Art": 100}
    factory = tmp_path / "MMMU"
    (factory / "eval").mkdir(parents=True)
    options = {"all_choices": ["A", "B"], "index2ans": {"A": "Monet", "B": "D'Arc"}}
    asked = [{"id": "validation_Art_1", "question_type": "multiple-choice", **options}]
    (factory / "anns_for_eval.json").write_text(json.dumps(asked))
    with pytest.raises(DataError, match="holds no right answers"):
        score(MMMU, factory, lines)
    given = {"validation_Art_1": {"question_type": "multiple-choice", "ground_truth": "B"}}
    (factory / "eval" / "answer_dict_val.json").write_text(json.dumps(given))
    for data in (factory, factory / "anns_for_eval.json"):
        assert [i.score for i in score(MMMU, data, lines).items] == [1.0]


def test_a_parsed_output_is_not_parsed_again(tmp_path):
    data = hub(tmp_path)
    parsed = [
        {"id": "validation_Art_1", "response": "(A)", "parsed_pred": "B"},
        {"id": "validation_Art_2", "response": "no", "parsed_pred": ["no", 3.0]},
    ]
    (tmp_path / "parsed_output.json").write_text(json.dumps(parsed))
    assert [i.score for i in score(MMMU, data, tmp_path / "parsed_output.json").items] == [1.0, 1.0]


def test_the_upload_holds_letters_and_texts_and_is_of_the_answers_split(tmp_path):
    data = hub(
        hub(tmp_path), [q | {"id": q["id"].replace("validation", "test"), "answer": "?"} for q in QUESTIONS], "test"
    )
    lines = tmp_path / "model.jsonl"
    lines.write_text('{"question_id": "test_Art_1", "text": "The answer is (B)."}')
    with pytest.raises(DataError, match=r"no right answers.*EvalAI 2179"):
        score(MMMU, data, lines)
    [path] = MMMU.submission(data, lines, tmp_path / "upload")
    assert path.name == "model-submission.json"
    assert json.loads(path.read_text()) == {"test_Art_1": "B", "test_Art_2": ""}


def test_a_choice_drawn_at_random_is_said(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"question_id": "validation_Art_1", "text": "neither"}')
    report = score(MMMU, hub(tmp_path), lines)
    drawn = random.Random(42).choice(["A", "B"])
    assert report.items[0].parsed == drawn
    assert (
        f"answer to validation_Art_1 names no choice; {drawn} is drawn at random, as in MMMU's script"
        in report.warnings
    )


def test_what_is_odd_in_an_answer_file_is_named(tmp_path):
    odd = [
        *('{"question_id": "validation_Art_1", "text": "A"}', '{"question_id": "validation_Art_1", "text": "B"}'),
        *("junk", "[]", '{"question_id": 3, "text": "A"}', '{"question_id": "validation_Art_2", "text": null}'),
        *('{"question_id": "validation_Art_99", "text": "A"}', '{"text": "A"}'),
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(odd).encode())
    report = score(MMMU, hub(tmp_path), path)
    assert [i.score for i in report.items] == [1.0]
    for line in (
        *("a.jsonl:2: another answer to validation_Art_1", "a.jsonl:3: not JSON", "a.jsonl:4: not an object"),
        *(
            "a.jsonl:5: no id",
            "a.jsonl:6: no text or response",
            "answer to validation_Art_99, which",
            "a.jsonl:8: no id",
        ),
        "question validation_Art_2 has no answer; left out",
    ):
        assert any(line in warning for warning in report.warnings), line


def test_the_factorys_lines_do_not_keep_all_questions_in_each(tmp_path):
    lines = tmp_path / "a.jsonl"
    line = {"question_id": "validation_Art_1", "text": "B", "prompt": [{"id": "x"}] * 1000}
    lines.write_text("\n".join(json.dumps(line | {"question_id": f"validation_Art_{n}"}) for n in (1, 2)))
    report = score(MMMU, hub(tmp_path), lines)
    assert (report.n, report.items[0].score) == (2, 1.0)


def test_missing_and_foreign_files_are_one_sentence(tmp_path):
    lines = write_lines(tmp_path / "a.jsonl", records(1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"missing MMMU's questions: expected <subject>/validation"):
        score(MMMU, tmp_path / "empty", lines)
    with pytest.raises(DataError, match="does not exist"):
        score(MMMU, tmp_path / "nowhere", lines)
    with pytest.raises(DataError, match="no answer is to one of the 2 questions"):
        lines.write_text('{"question_id": "test_Art_1", "text": "A"}')
        score(MMMU, hub(tmp_path), lines)
    with pytest.raises(DataError, match=r"no <subject>/output\.json"):
        score(MMMU, hub(tmp_path), tmp_path / "empty")


def test_no_file_gives_anything_but_a_report_or_one_sentence(tmp_path):
    rng = random.Random(0)
    found = records(1, count=2)
    data = write_answers(tmp_path / "answer_dict_val.json", found)
    output = write_folder(tmp_path / "model", found) / "Art" / "output.json"
    lines = write_lines(tmp_path / "a.jsonl", found)
    parquet = hub(tmp_path) / "Art" / "validation-00000-of-00001.parquet"
    shapes = [found, [json.loads(line) for line in lines.read_text().split("\n")]]
    shapes.append([{k: v for k, v in json.loads(data.read_text()).items()}])
    junk = [*(a.encode() for a in split(CHOSEN)), b"null", b"\xff", b"{", b"[", b"]", b'"', b"1e999", b"NaN", b":"]
    outcomes = set()
    for _ in range(300):
        victim = tmp_path / rng.choice(["fuzz.parquet", "fuzz.json", "anns_for_eval.json"])
        if victim.suffix == ".parquet" or rng.random() < 0.3:
            victim.write_bytes(broken(rng.choice([data, lines, output, parquet]).read_bytes(), junk, rng))
        else:
            victim.write_text(mangled(rng.choice(shapes), rng))
        chosen, said, asked = rng.choice(
            [(victim, lines, None), (data, victim, None), (data, output, victim), (victim, victim, None)]
        )
        try:
            report = score(MMMU, chosen, said, questions=asked)
            json.dumps(report.as_json()).encode()
            outcomes.add("report")
            MMMU.submission(chosen, said, tmp_path / "upload")
            MMMU.questions(chosen)
        except DataError as e:
            assert "\n" not in str(e)
            outcomes.add("sentence")
    assert outcomes == {"report", "sentence"}
