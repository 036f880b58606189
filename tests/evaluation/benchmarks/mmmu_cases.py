"""Answers to MMMU that are hard to read, and questions for them; the golden values are in test_mmmu_rules.py."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

OPTIONS = [
    {"A": "$6", "B": "$7,000", "C": "Project A", "D": "none of the above"},
    {"A": "Iron", "B": "iron ore"},
    {"A": "1", "B": "2", "C": "3", "D": "4", "E": "5", "F": "6", "G": "7", "H": "8", "I": "9"},
]
CHOSEN = r"""
A|B|C|D|E|I|a|b.|A.|(B)|(b)|[C]|B)|*D*|**A**|A B|B A|(A) B|A (B)|(A)(B)|((C))|A. $6|B. iron ore|'A'|"A"|.'A'.
';A|The answer is A|The answer is (B).|The answer is B.|I think B|I think it is (B) and not (A)|A and then B or A|A,B
A, B|A\tB|\n|A\nB|(A)\n(B)|B:|:B|B?!|?B.|Answer: C|C\n|\nC|  D  | |(E)|(I)|option (A), or B|ABCD|A/B|A-B
I would say that it is $6|I would say that it is $6 or $7,000 then|the amount is project a if one asks me|it is iron
the thing that it is made of is IRON|the thing that it is made of is iron ore
iron ore is what the thing is made of, iron
one two three four 5|one two three four five 5|one 2 three 4 five 6 seven 9|none of the above is what I would take"""
SPOKEN = r"""
30|30 watts|It is 30|the answer is 30.|= 30|x = 30|x = 3\ny = 30|so y = 30\nfine|is |is .|so : is ;
final answer result|30.004|30.005|29.996|3e1|30,0|3,0|30,000|1,234.5|-30|- 30|+30|.5|5.|0.5.6|1e400|nan|inf|1_000|１２|٣
1/64|24/7|3.429|C|c|a c|ac c|the letter c|c.|C is|Transformation|a transformation.|TRANSFORMATION was|reason so
also this is it|whiso far|could be 4 or 5|thus 4|therefore 5 is 6|it is 4\n\nis 5|result 7 = 8|a = b = c
= |answer = $MgS$|MgS|$mgs$|mg S|Tampa, Florida|Tampa|florida is|...|. .|\n|İ is|ß so ſ|5 apples and 6,000 pears|1,00
12,34,567|2E-3 or 0.002|--5|1.005|2.675"""
GOLDS = [["30"], ["C"], ["$MgS$", "MgS"], ["Tampa", "Florida"], ["24/7", "3.429"], ["1.005"], [""], ["5"], ["1,234.50"]]
SUBJECTS = ["Sociology", "Math", "Art_Theory", "Art", "Accounting"]
"""Not in the order in which they are scored."""


def split(text: str) -> list[str]:
    return [
        a.replace("\\n", "\n").replace("\\t", "\t") for line in text.strip("\n").split("\n") for a in line.split("|")
    ]


def records(seed: int, count: int = 12) -> list[dict[str, Any]]:
    """Questions with their answers, as MMMU's output.json holds them."""
    rng = random.Random(seed)
    chosen, spoken = split(CHOSEN), split(SPOKEN)
    found = []
    for subject in SUBJECTS:
        for number in range(1, count + 1):
            record: dict[str, Any] = {"id": f"validation_{subject}_{number}"}
            if rng.random() < 0.7:
                options = rng.choice(OPTIONS)
                gold = rng.choice([*options])
                record |= {"question_type": "multiple-choice", "answer": gold, "all_choices": [*options]}
                record |= {"index2ans": options}
                record["response"] = gold if rng.random() < 0.4 else rng.choice(chosen)
            else:
                right = rng.choice(GOLDS)
                record |= {"question_type": "short-answer", "answer": right if len(right) > 1 else right[0]}
                record["response"] = rng.choice(right) if rng.random() < 0.4 else rng.choice(spoken)
            found.append(record)
    return found


def write_answers(path: Path, found: list[dict[str, Any]]) -> Path:
    """answer_dict_val.json."""
    kept = {r["id"]: {"question_type": r["question_type"], "ground_truth": r["answer"]} for r in found}
    path.write_text(json.dumps(kept))
    return path


def write_lines(path: Path, found: list[dict[str, Any]]) -> Path:
    """LLaVA's answer lines."""
    lines = [{"question_id": r["id"], "prompt": "p", "text": r["response"]} for r in found]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


def write_options(path: Path, found: list[dict[str, Any]]) -> Path:
    """The Factory's anns_for_eval.json, as far as parsing needs it."""
    kept = ("id", "question_type", "all_choices", "index2ans")
    path.write_text(json.dumps([{k: r[k] for k in kept if k in r} for r in found]))
    return path


def write_folder(folder: Path, found: list[dict[str, Any]]) -> Path:
    """What main_parse_and_eval.py takes."""
    for subject in SUBJECTS:
        (folder / subject).mkdir(parents=True)
        inside = [r for r in found if "_".join(r["id"].split("_")[1:-1]) == subject]
        (folder / subject / "output.json").write_text(json.dumps(inside))
    return folder
