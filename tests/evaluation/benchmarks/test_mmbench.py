"""MMBench: its layouts, prompts, answer files and upload, and files that are refused in one sentence."""

import base64
import io
import json
import random

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from choice_junk import broken, mangled
from mmbench_cases import ANSWERS, COLUMNS, WORDS, answers, rows, write_lines, write_table
from PIL import Image

from remora.errors import BrokenRecord, DataError
from remora.evaluation.benchmarks import benchmark, score

MMBENCH = benchmark("mmbench")


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), colour).save(buffer, "PNG")
    return buffer.getvalue()


def table(**changes: str) -> list[dict[str, str]]:
    """One question with two rotations and one with three, whose last option is `none`."""
    common = {"hint": "", "source": "s", "comment": "", "split": "dev", "category": "ocr", "D": ""} | changes
    first, second = {"question": "what?", "hint": "look"}, {"question": "who?", "hint": "nan"}
    texts = [
        ({"index": "3", "A": "cat", "B": "dog", "C": "", "answer": "B"}, first, "coarse_perception"),
        ({"index": "1000003", "A": "dog", "B": "cat", "C": "", "answer": "A"}, first, "coarse_perception"),
        ({"index": "4", "A": "x", "B": "None", "C": "z", "answer": "A"}, second, "logic_reasoning"),
    ]
    return [common | cells | text | {"l2-category": ability, "image": ""} for cells, text, ability in texts]


def with_pictures(found: list[dict[str, str]]) -> list[dict[str, str]]:
    pictures = [base64.b64encode(png(c)).decode() for c in ("red", "red", "blue")]
    return [row | {"image": image} for row, image in zip(found, pictures, strict=True)]


def score_of(tmp_path, found, path):
    return score(MMBENCH, write_table(tmp_path / "dev.tsv", found), path)


def test_prompts_are_llavas_from_every_layout(tmp_path):
    found = with_pictures(table())
    legacy = MMBENCH.questions(write_table(tmp_path / "legacy.tsv", found))
    first = legacy[0]
    assert first.text == "look\nwhat?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    assert first.prompt == "look\nwhat?\nA. cat\nB. dog"
    assert (first.id, first.max_new_tokens) == (3, 1024)
    assert first.extra == {"round_id": 0, "options": ["cat", "dog"], "option_char": ["A", "B"]}
    assert legacy[2].prompt == "who?\nA. x"  # LLaVA stops at the first option `none`
    assert [q.group for q in legacy] == ["3", "3", "4"]

    found[1] = found[1] | {"image": "3"}
    referring = MMBENCH.questions(write_table(tmp_path / "referring.tsv", found))
    hub = tmp_path / "hub" / "en"
    hub.mkdir(parents=True)
    shown = [{"bytes": png(c), "path": "p"} for c in ("red", "red", "blue")]
    columns = {c.replace("l2", "L2"): [row[c] or None for row in found] for c in COLUMNS if c != "image"}
    pq.write_table(pa.table(columns | {"image": shown}), hub / "dev-00000-of-00001.parquet")
    pq.write_table(pa.table(columns | {"image": shown}), hub / "test-00000-of-00001.parquet")
    for other in (referring, MMBENCH.questions(tmp_path / "hub")):
        assert [(q.id, q.text, q.prompt, q.extra, q.group) for q in other] == [
            (q.id, q.text, q.prompt, q.extra, q.group) for q in legacy
        ]
        assert [q.pictures[0].open().getpixel((0, 0)) for q in other] == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]


def test_chinese_questions_are_asked_in_chinese(tmp_path):
    found = [row | {"question": f"图 {row['question']}"} for row in table()]
    asked = MMBENCH.questions(write_table(tmp_path / "dev.tsv", found))
    assert asked[0].text == "look\n图 what?\nA. cat\nB. dog\n请直接回答选项字母。"


def test_a_picture_that_is_none_is_named_when_it_is_shown(tmp_path):
    found = [row | {"image": "no base64!"} for row in table()]
    asked = MMBENCH.questions(write_table(tmp_path / "dev.tsv", found))
    with pytest.raises(BrokenRecord, match=r"dev\.tsv, index 3"):
        asked[0].pictures[0].open()


def test_a_row_without_a_picture_is_left_out_where_others_have_one(tmp_path):
    found = with_pictures(table())
    found[2]["image"] = ""
    report = score_of(tmp_path, found, write_lines(tmp_path / "a.jsonl", {"3": "B", "1000003": "A", "4": "A"}))
    assert report.metrics["accuracy"] == 100 and report.n == 2
    assert any("4 has no picture" in line for line in report.warnings)


def test_one_wrong_rotation_makes_the_question_wrong(tmp_path):
    said = {"3": "B", "1000003": "B", "4": "A"}
    report = score_of(tmp_path, table(), write_lines(tmp_path / "a.jsonl", said))
    assert report.metrics == {
        **{"accuracy": 50, "accuracy.vanilla": 100, "accuracy.vanilla.all": pytest.approx(200 / 3)},
        **{"accuracy.CP": 0, "accuracy.LR": 100, "accuracy.ocr": 50},
    }
    assert [(i.id, i.answer, i.parsed, i.gold, i.score, i.labels) for i in report.items][:2] == [
        (3, "B", "B", "B", 1.0, ("CP", "ocr")),
        (1000003, "B", "B", "A", 0.0, ("CP", "ocr")),
    ]


def test_an_unanswered_row_of_llavas_lines_counts_as_wrong(tmp_path):
    report = score_of(tmp_path, table(), write_lines(tmp_path / "a.jsonl", {"3": "B", "4": "A"}))
    assert report.metrics["accuracy"] == 50 and report.n == 3
    assert "question 1000003 has no answer; it counts as wrong" in report.warnings


def test_an_empty_cell_says_nan_to_the_official_rules(tmp_path):
    found = [row | {"A": "an", "answer": "A"} for row in table()]
    report = score_of(tmp_path, found, write_lines(tmp_path / "a.jsonl", {"3": "", "1000003": "None"}))
    assert [(i.answer, i.parsed) for i in report.items] == [("", "A"), ("None", "A"), ("", "A")]


def test_rounds_with_rotated_options_are_read_by_their_letters(tmp_path):
    def line(turn: int, text: str) -> str:
        letters = [*"AB"[turn:], *"AB"[:turn]]
        shown = [{"A": "cat", "B": "dog"}[letter] for letter in letters]
        return json.dumps({"question_id": 3, "round_id": turn, "text": text, "options": shown, "option_char": letters})

    found = table()[:1]
    for texts, letters, right in ((("B", "A"), "B B", 1), (("B", "B"), "B A", 0), (("dog", "dog"), "B B", 1)):
        path = tmp_path / "rounds.jsonl"
        path.write_text("\n".join(line(turn, text) for turn, text in enumerate(texts)))
        report = score_of(tmp_path, found, path)
        assert (report.items[0].parsed, report.items[0].score, report.warnings) == (letters, right, [])


def test_every_form_of_the_same_predictions_is_scored_alike(tmp_path):
    found = rows(5, 12, WORDS[:5])
    said = answers(5, found)
    said = {i: text for i, text in said.items() if text not in ("", "None", "null", "N/A") and text[:1] not in "=#\n"}
    data = write_table(tmp_path / "dev.tsv", found)
    records = [{"index": int(i), "prediction": text} for i, text in said.items()]
    book = openpyxl.Workbook()
    book.active.append(["index", "prediction"])
    for i, text in said.items():
        book.active.append([int(i), text])
    book.save(tmp_path / "predictions.xlsx")
    (tmp_path / "array.json").write_text(json.dumps(records))
    (tmp_path / "lines.json").write_text("\n".join(json.dumps(r) for r in records))
    (tmp_path / "mapping.json").write_text(json.dumps(said))
    write_table(tmp_path / "renamed.txt", records, ["index", "prediction"])
    names = ("predictions.xlsx", "array.json", "lines.json", "mapping.json", "renamed.txt")
    reports = [score(MMBENCH, data, tmp_path / name) for name in names]
    assert 20 < reports[0].metrics["accuracy"] < 90 and reports[0].n == len(said)
    for report in reports[1:]:
        assert report.metrics == reports[0].metrics
        assert [i.parsed for i in report.items] == [i.parsed for i in reports[0].items]


def test_the_upload_is_llavas_workbook_and_scores_as_the_lines_do(tmp_path):
    found = table()
    said = {"3": "=B", "1000003": "A", "4": "\x00A\ud800\ufffe"}
    data, lines = write_table(tmp_path / "dev.tsv", found), write_lines(tmp_path / "model.jsonl", said)
    [path] = MMBENCH.submission(data, lines, tmp_path / "upload")
    assert path == tmp_path / "upload" / "model.xlsx"
    cells = [[c.value for c in row] for row in openpyxl.load_workbook(path).active]
    assert cells[0] == ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert cells[1] == [3, "what?", "cat", "dog", None, None, "=B", "B", "dev"]
    assert [row[6] for row in cells[1:]] == ["=B", "A", "A"]
    assert openpyxl.load_workbook(path).active["G2"].data_type == "s"  # no formula
    assert [i.parsed for i in score(MMBENCH, data, path).items] == ["", "A", "A"]


def test_a_test_split_is_uploaded_and_not_scored(tmp_path):
    found = [{k: v for k, v in row.items() if k != "answer"} for row in table()]
    columns = [c for c in COLUMNS if c != "answer"]
    data, lines = write_table(tmp_path / "test.tsv", found, columns), write_lines(tmp_path / "a.jsonl", {"3": "B"})
    with pytest.raises(DataError, match=r"holds no answers.*mmbench\.opencompass\.org\.cn"):
        score(MMBENCH, data, lines)
    [path] = MMBENCH.submission(data, lines, tmp_path)
    header, first, second, _ = ([c.value for c in row] for row in openpyxl.load_workbook(path).active)
    assert header == ["index", "question", "A", "B", "C", "D", "prediction", "split"]
    assert (first[6], second[6]) == ("B", None)


class Scripted:
    """A judge that says one thing and remembers what it was asked."""

    model = "scripted"

    def __init__(self, reply: str) -> None:
        self.reply, self.asked = reply, []

    def ask(self, messages, *, temperature, max_tokens):
        self.asked.append(messages[0]["content"])
        assert (temperature, max_tokens) == (0, 2048)
        return self.reply


def test_a_judge_reads_what_the_rules_cannot(tmp_path):
    data = write_table(tmp_path / "dev.tsv", table())
    lines = write_lines(tmp_path / "a.jsonl", {"3": "B", "1000003": "some animal", "4": "A"})
    judge = Scripted("A")
    report = score(MMBENCH, data, lines, judge=judge)
    assert (report.metrics["accuracy"], report.judge, len(judge.asked)) == (100, "scripted", 1)
    assert "Question: what??\nOptions: There are several options: \nA. dog\nB. cat\n" in judge.asked[0]
    report = score(MMBENCH, data, lines, judge=Scripted("hm"))
    assert report.metrics["accuracy"] == 50 and any("the judge said 'hm'" in line for line in report.warnings)


def test_the_table_is_found_in_a_folder_or_the_folder_says_why_not(tmp_path):
    lines = write_lines(tmp_path / "a.jsonl", {"3": "B"})
    with pytest.raises(DataError, match=r"missing MMBench's table: expected a \*\.tsv"):
        score(MMBENCH, tmp_path, lines)
    write_table(tmp_path / "dev_predictions.tsv", table(), [*COLUMNS, "prediction"])
    folder = tmp_path / "mmbench"
    folder.mkdir()
    write_table(folder / "mmbench_dev_20230712.tsv", table())
    write_table(folder / "mmbench_test_en_20231003.tsv", table(), [c for c in COLUMNS if c != "answer"])
    assert score(MMBENCH, tmp_path, lines).n == 3
    write_table(folder / "MMBench_DEV_CN.tsv", table())
    with pytest.raises(DataError, match=r"2 tables.*MMBench_DEV_CN\.tsv.*mmbench_dev_20230712\.tsv.*give the one"):
        score(MMBENCH, tmp_path, lines)


def test_what_is_odd_in_an_answer_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.jsonl"
    odd = [
        *('{"question_id": 3, "text": "A"}', '{"question_id": "3", "text": "B"}', "no json", "[1]", '{"text": "A"}'),
        *('{"question_id": 99, "text": "A"}', '{"question_id": 4, "text": null}', '{"question_id": NaN, "text": "A"}'),
        '{"question_id": 1000003, "text": "A", "options": ["dog", "cow"], "option_char": ["A", "B"]}',
        '{"question_id": 4.0, "text": "A", "option_char": ["B", "C", "A", "D"]}',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(odd).encode())
    report = score_of(tmp_path, table(), path)
    assert report.metrics["accuracy"] == 100
    for line in (
        *(
            "a.jsonl:2: another answer to 3",
            "a.jsonl:3: not JSON",
            "a.jsonl:4: not an object",
            "a.jsonl:5: no quest",
        ),
        *(
            "a.jsonl:6: answer to 99",
            "a.jsonl:7: no text",
            "a.jsonl:8: answer to nan",
            "a.jsonl:9: options",
        ),
        "a.jsonl:10: shown were B, C, A, D",
    ):
        assert any(line in warning for warning in report.warnings), line


def test_answers_to_another_version_are_one_sentence(tmp_path):
    with pytest.raises(DataError, match="no answer is to one of the 3 questions"):
        score_of(tmp_path, table(), write_lines(tmp_path / "a.jsonl", {"77": "B"}))
    with pytest.raises(DataError, match="not an xlsx workbook"):
        (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04 torn")
        score_of(tmp_path, table(), tmp_path / "a.xlsx")


@pytest.mark.slow
def test_no_file_gives_anything_but_a_report_or_one_sentence(tmp_path):
    rng = random.Random(0)
    good = with_pictures(table())
    data, lines = tmp_path / "dev.tsv", tmp_path / "a.jsonl"
    [book] = MMBENCH.submission(write_table(data, good), write_lines(lines, {"3": "B", "4": "A"}), tmp_path)
    shown = {"options": ["cat", "dog"], "option_char": ["B", "A"]}
    shapes = [[{"question_id": 3, "round_id": 0, "text": "B", **shown}, {"question_id": 4, "text": "A"}]]
    shapes += [[{"index": 3, "prediction": "B", "A": "cat"}, {"index": 4, "prediction": "A"}], [{"3": "B", "4": "A"}]]
    junk = [*(a.encode("utf-8", "replace") for a in ANSWERS), b"\t", b"\n", b'"', b"\xff", b"{", b"["]
    outcomes = set()
    for _ in range(300):
        victim = tmp_path / rng.choice(["fuzz.tsv", "fuzz.jsonl"])
        if rng.random() < 0.5:
            victim.write_bytes(broken(rng.choice([data, lines, book]).read_bytes(), junk, rng))
        else:
            victim.write_text(mangled(rng.choice(shapes), rng))
        chosen, said = rng.choice([(victim, lines), (data, victim), (data, victim), (victim, book)])
        try:
            report = score(MMBENCH, chosen, said)
            json.dumps(report.as_json()).encode()
            outcomes.add("report")
            MMBENCH.questions(chosen)
            MMBENCH.submission(chosen, said, tmp_path / "upload")
        except DataError as e:
            assert "\n" not in str(e)
            outcomes.add("sentence")
    assert outcomes == {"report", "sentence"}
