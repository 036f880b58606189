"""MMBench's letters and figures on answers that are hard to read.

The golden values were printed by VLMEvalKit at e8e78f0 (can_infer of matching_util.py; mcq_circular_eval, eval_vanilla
and report_acc of multiple_choice.py, exact matching, pandas 3.1.1) for the cases in mmbench_cases.py, LLaVA's lines by
way of its convert_mmbench_for_submission.py at c121f04. `-` is an answer that cannot be read, `.` a row without any.
"""

import pytest
from mmbench_cases import ANSWERS, NUMBERS, OPTIONS, WORDS, answers, rows, write_lines, write_table

from remora.evaluation.benchmarks import benchmark, score
from remora.evaluation.benchmarks.mmbench.cells import inferred, through_workbook
from remora.evaluation.benchmarks.mmbench.option_letter import infer, judge_prompt

INFERRED = [
    "ABCD-Z--ABCDABCD----ABC-A-AZ---B-AA-A-A---ABCDBCAA-DAAAAB-CCDD-------------ABCD--------B------ZZZZ----A------",
    "ABC--Z--ABC-ABC-----ABC-ABAZ---B-AA-A-A---ABCBBCAAB-A----------AA-BBBA-----ABC---------B------ZZZZ-------A---",
    "ABCD-ZA-ABCDABCDA--AABCAAAAZAAAB-AAAAAA---ABCDBCAAADAAAAAA-------AAAA-A----ABCDAC--BDDAB--AAAAZZZZ----A------",
]
TABLES = {
    "words": (1, WORDS),
    "numbers": (2, NUMBERS),
    "both": (3, WORDS + NUMBERS),
}
LINES = {
    "words": (
        "---DCBA-----DCB--------BA--DCBACBA-A--DCBACBZDCBADADC-AB-BADCBAADCB----DCBA---CBA--",
        {
            **{"accuracy": 40.0, "accuracy.AR": 42.8571, "accuracy.CP": 50.0, "accuracy.FP-C": 50.0},
            **{"accuracy.FP-S": 50.0, "accuracy.LR": 50.0, "accuracy.RR": 0.0, "accuracy.category 0": 66.6667},
            **{
                "accuracy.category 1": 20.0,
                "accuracy.category 2": 25.0,
                "accuracy.category 3": 50.0,
                "accuracy.vanilla": 52.0,
            },
            **{"accuracy.vanilla.all": 59.0361},
        },
    ),
    "numbers": (
        "-ABADCCCADBADCB-C-ADCDCBADCC-D-AACBADA-CBCBBC-ADA-CABB-CBACBADDBABADCABCBA-ABBACADCB",
        {
            **{"accuracy": 44.0, "accuracy.AR": 100.0, "accuracy.CP": 40.0, "accuracy.FP-C": 50.0},
            **{"accuracy.FP-S": 20.0, "accuracy.LR": 33.3333, "accuracy.RR": 50.0, "accuracy.category 0": 42.8571},
            **{
                "accuracy.category 1": 42.8571,
                "accuracy.category 2": 20.0,
                "accuracy.category 3": 66.6667,
                "accuracy.vanilla": 88.0,
            },
            **{"accuracy.vanilla.all": 79.7619},
        },
    ),
    "both": (
        "BACCB-D--CBAAABDCAAA-BD-BACBA-ADCBDCBABAADABB---A-C-ADCBA-----DCBAB------BACBAD-----",
        {
            **{"accuracy": 32.0, "accuracy.AR": 40.0, "accuracy.CP": 25.0, "accuracy.FP-C": 20.0},
            **{"accuracy.FP-S": 50.0, "accuracy.LR": 20.0, "accuracy.RR": 50.0, "accuracy.category 0": 42.8571},
            **{
                "accuracy.category 1": 20.0,
                "accuracy.category 2": 25.0,
                "accuracy.category 3": 40.0,
                "accuracy.vanilla": 72.0,
            },
            **{"accuracy.vanilla.all": 63.0952},
        },
    ),
}
PREDICTIONS = {
    "words": (
        "BACDCBAADCBBDCB----.---BA--DCBACBAAA--DCBACBZDCBADADC-AB-BADCBAADCBCBADDCBA.--CBA--",
        (56.5217, 73.913, 75.3086),
    ),
    "numbers": (
        "-ABADCCCADBADCB.C-ADCDCBADCC-D-AACBADA-CBCBBC-ADA-CABB.CBACBADDBABADCABCBA.ABBACADCB",
        (56.0, 88.0, 82.716),
    ),
    "both": (
        "BACCB-D--CBAAABDCAAA-BDBBACBA.ADCBDCBABAADABB---A-C.ADCBABADC-DCBABBC-AB-BACBAD-----",
        (44.0, 80.0, 73.1707),
    ),
}


@pytest.mark.parametrize(("options", "golden"), list(zip(OPTIONS, INFERRED, strict=True)))
def test_the_letter_of_an_answer_is_the_official_one(options, golden):
    assert "".join(infer(answer, options) or "-" for answer in ANSWERS) == golden


@pytest.mark.parametrize("name", TABLES)
def test_llavas_lines_give_the_official_letters_and_figures(tmp_path, name):
    seed, texts = TABLES[name]
    table = rows(seed, 25, texts)
    lines = write_lines(tmp_path / "lines.jsonl", answers(seed, table))
    report = score(benchmark("mmbench"), write_table(tmp_path / "dev.tsv", table), lines)
    letters, figures = LINES[name]
    assert "".join(item.parsed or "-" for item in report.items) == letters
    assert report.metrics == pytest.approx(figures, abs=5e-5)
    assert [item.score for item in report.items] == [
        float(a == r["answer"]) for a, r in zip(letters, table, strict=True)
    ]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_predictions_gives_the_official_letters_and_figures_of_the_rows_it_holds(tmp_path, name):
    seed, texts = TABLES[name]
    table = rows(seed, 25, texts)
    said = answers(seed, table)
    held = [row | {"prediction": said[row["index"]]} for row in table if row["index"] in said]
    path = write_table(tmp_path / "predictions.tsv", held, ["index", "question", *"ABCD", "prediction"])
    report = score(benchmark("mmbench"), write_table(tmp_path / "dev.tsv", table), path)
    read = {str(item.id): item.parsed or "-" for item in report.items}
    letters, figures = PREDICTIONS[name]
    assert "".join(read.get(row["index"], ".") for row in table) == letters
    measured = [report.metrics[f"accuracy{suffix}"] for suffix in ("", ".vanilla", ".vanilla.all")]
    assert measured == pytest.approx(figures, abs=5e-5)


COLUMNS = [
    (["1", "2"], ["1", "2"], ["1", "2"]),
    (["1", None], ["1.0", None], ["1.0", None]),
    (["1.50", "2"], ["1.5", "2.0"], ["1.5", "2.0"]),
    (["4.0", "2"], ["4.0", "2.0"], ["4", "2"]),
    (["1", " 2 "], ["1", "2"], ["1", "2"]),
    (["1", "x"], ["1", "x"], ["1", "x"]),
    (["1e5", "3"], ["100000.0", "3.0"], ["100000", "3"]),
    (["007", "-01"], ["7", "-1"], ["7", "-1"]),
    (["1_0", "٣"], ["1_0", "٣"], ["1_0", "٣"]),
    (["", "NA"], [None, None], [None, None]),
    (["none", "None", "nan ", "n/a"], ["none", None, "nan ", None], ["none", None, "nan ", None]),
    (["=", "=B", "#REF!", "#N/A"], ["=", "=B", "#REF!", None], ["=", None, None, None]),
]
"""Cells, what pandas 3.1.1 reads of them in a TSV, and what it reads after writing that to xlsx with openpyxl."""


@pytest.mark.parametrize(("cells", "read", "again"), COLUMNS)
def test_cells_are_read_as_pandas_reads_them(cells, read, again):
    assert inferred(cells) == read
    assert through_workbook(read) == again


def test_a_judge_is_asked_in_the_questions_language():
    english = judge_prompt("what", {"A": "x", "B": "y {}"}, "an {answer}")
    assert english.endswith(
        "Example 3: \nQuestion: what?\nOptions: There are several options: \nA. x\nB. y {}\n\n"
        "Answer: an {answer}\nYour output: "
    )
    chinese = judge_prompt("什么", {"A": "x"}, "y")
    assert chinese.endswith("例 3: \n问题: 什么?\n选项: There are several options: \nA. x\n\n答案: y\n输出: ")
    assert len(english.splitlines()) == 19 and chinese.startswith(
        "你是一个帮助我匹配答案与单选题中多个选项的 AI 助手。"
    )
