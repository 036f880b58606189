"""MMMU's parsers and figures on answers that are hard to read.

The golden values were printed by MMMU at bb0b95a (parse_multi_choice_response, parse_open_response and eval_open of
eval_utils.py, main_parse_and_eval.py --subject ALL, main_eval_only.py) for the cases in mmmu_cases.py. `-` is a choice
that is drawn at random, `.` an open question.
"""

import json
from pathlib import Path

import pytest
from mmmu_cases import (
    CHOSEN,
    GOLDS,
    OPTIONS,
    SPOKEN,
    records,
    split,
    write_answers,
    write_folder,
    write_lines,
    write_options,
)

from remora.evaluation.benchmarks import benchmark, score
from remora.evaluation.benchmarks.mmmu.parse import choose, open_right, read_open

LETTERS = [
    "ABCD----AB-----BAABBC--A-A-ABBBAA-B---BBBBBC--D---A---ABC-------D",
    "AB------AB-----BAABB---A-A-ABBBAA-B---BBBBB-------A-------AAA----",
    "ABCDEI--AB-----BAABBC--A-A-ABBBAA-B---BBBBBC--D-EIA---II------EII",
]
READ = r"""
30.0|30_watts~30.0|30.0|30.0|30.0|30.0|30.0|30.0~y_=_30|is|is|so_:_is_;|result|30.0|30.0|30.0|1.0~30.0
0.0~300.0|0.0~30.0|0.0~30000.0|1234.0~1234.5~234.5|-30.0|-_30~30.0|30.0|5.0|5.0|0.5~0.5.6~0.6|400.0~inf|nan
inf|0.0~1000.0|12.0|3.0|1.0~1/64~64.0|24.0~24/7~7.0|3.43|_c~c_|_c~c_|a_c|ac_c|the_letter_c|_c~c_|c_is
transformation|a_transformation|transformation_was|reason_so|it|far|4_or_5~4.0~5.0|4.0|6.0|4.0~5.0|8.0|_c~c_
_=~=_|$mgs$|mgs|$mgs$|mg_s|tampa,_florida|tampa|florida_is||||i̇_is|_ſ~ſ_
0.0~5_apples_and_6,000_pears~5.0~6000.0|0.0~100.0|1234567.0~34567.0~567.0|-3.0~0.0~2e-3_or_0.002|--5~-5.0|1.0
2.67
"""
"""Texts and numbers in alphabetical order, with _ for a space."""
RIGHT = [
    "11111111000011110100011000000000000000000000000000000000000000000000000000",
    "00000000000000000000000000000000000111111100000000000100000000000000000000",
    "00000000000000000000000000000000000000000000000000000001110000000000000000",
    "00000000000000000000000000000000000000000000000000000000000111000000000000",
    "00000000000000000000000000000000011000000000000000000000000000000000000000",
    "00000000000000010000000000000000100000000000000000000000000000000000000010",
    "01000001111100000000010001000000110111111111111110000111111111111111001100",
    "00000000000000000000000110000000000000000000000010010000000000000001000000",
    "00000000000000000001000000000000000000000000000000000000000000000000000000",
]
PARSED = {
    1: (
        "C.AA....A.EIDBAFAB.BBA..ABD..BCCABAC..IDABA..BIBAA..A.ADEBBA",
        "100111110011110100111100110001110011010111100111111100111011",
        {
            **{"": 65.0, "Sociology": 66.6667, "Math": 58.3333, "Art_Theory": 58.3333},
            **{"Art": 66.6667, "Art and Design": 62.5},
        },
    ),
    2: (
        "..A....BD...AA.A.IGB..A.AA.ABAA.B.B.EBB.FABABG.A.B.BBABCAAAB",
        "110010110101001001100110111011000011010111010101111011110000",
        {
            **{"": 55.0, "Sociology": 58.3333, "Math": 41.6667, "Art_Theory": 58.3333},
            **{"Art": 58.3333, "Art and Design": 58.3333},
        },
    ),
    3: (
        "CBBH.A....AICCAEH.ABBAAD.B.BCBBABBBABABAC.BGDBB.IAABEBAGBBBB",
        "111101101010011110100111101011111111110110111011101100111001",
        {
            **{"": 70.0, "Sociology": 66.6667, "Math": 66.6667, "Art_Theory": 83.3333},
            **{"Art": 75.0, "Art and Design": 79.1667},
        },
    ),
}
ONLY = {1: (59, 0.475, 0.364), 2: (59, 0.475, 0.182), 3: (59, 0.458, 0.364)}
"""Of main_eval_only.py without validation_Math_3: how many, overall, Math."""
MMMU = benchmark("mmmu")


def figures(report) -> dict[str, float]:
    return {name.removeprefix("accuracy").removeprefix("."): value for name, value in report.metrics.items()}


@pytest.mark.parametrize(("options", "golden"), list(zip(OPTIONS, LETTERS, strict=True)))
def test_the_choice_of_an_answer_is_the_official_one(options, golden):
    assert "".join(choose(answer, [*options], options) or "-" for answer in split(CHOSEN)) == golden


def test_what_an_open_answer_may_mean_is_what_it_may_mean_officially():
    read = ["~".join(sorted(map(str, read_open(answer)))).replace(" ", "_") for answer in split(SPOKEN)]
    assert read == split(READ)


@pytest.mark.parametrize(("gold", "golden"), list(zip(GOLDS, RIGHT, strict=True)))
def test_an_open_answer_is_right_where_it_is_officially(gold, golden):
    assert "".join(str(int(open_right(gold, read_open(answer)))) for answer in split(SPOKEN)) == golden


@pytest.mark.parametrize("seed", PARSED)
@pytest.mark.parametrize("form", ["folder", "array", "lines"])
def test_answers_are_parsed_drawn_and_counted_as_by_main_parse_and_eval(tmp_path, seed, form):
    found = records(seed)
    data = write_answers(tmp_path / "answer_dict_val.json", found)
    questions = None
    if form != "lines":
        write_answers(data, found[::-1])  # it is the order of the answers that counts
    if form == "folder":
        path = write_folder(tmp_path / "model", found)
    elif form == "array":
        path = tmp_path / "all.json"
        path.write_text(json.dumps(found))
    else:
        path = write_lines(tmp_path / "lines.jsonl", found[::-1])
        questions = write_options(tmp_path / "anns_for_eval.json", found)
    report = score(MMMU, data, path, questions=questions)
    letters, right, golden = PARSED[seed]
    outcome = {item.id: item for item in report.items}
    items = [outcome[r["id"]] for r in found]
    choices = [r["question_type"] == "multiple-choice" for r in found]
    assert "".join(i.parsed if choice else "." for i, choice in zip(items, choices, strict=True)) == letters
    assert "".join(str(int(i.score)) for i in items) == right
    assert {name: figures(report)[name] for name in golden} == pytest.approx(golden, abs=5e-5)


@pytest.mark.parametrize("seed", ONLY)
@pytest.mark.parametrize("form", ["mapping", "mapping and options", "lines without options"])
def test_final_answers_are_compared_as_by_main_eval_only(tmp_path, seed, form):
    found = records(seed)
    data = write_answers(tmp_path / "answer_dict_val.json", found)
    found = [r for r in found if r["id"] != "validation_Math_3"]
    path: Path = tmp_path / "total_val_output.json"
    questions = write_options(tmp_path / "anns_for_eval.json", found) if form == "mapping and options" else None
    if form != "lines without options":
        path.write_text(json.dumps({r["id"]: r["response"] for r in found}))
    else:  # TinyLLaVA Factory's convert_answer_to_mmmu.py makes such a mapping of its lines
        path = write_lines(path, found)
    report = score(MMMU, data, path, questions=questions)
    count, overall, math = ONLY[seed]
    assert (report.n, round(figures(report)[""] / 100, 3), round(figures(report)["Math"] / 100, 3)) == (
        count,
        overall,
        math,
    )
    assert any("validation_Math_3 has no answer; left out" in line for line in report.warnings)
    assert any("is not a letter" in line for line in report.warnings)
