"""Answers to MMBench that are hard to read, and tables of them; the golden values are in test_mmbench_rules.py."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

OPTIONS = [
    {"A": "cat", "B": "a dog", "C": "Red", "D": "7"},
    {"A": "no", "B": "An", "C": "nanny"},
    {"A": "A", "B": "the left", "C": "3.5", "D": "猫"},
]
ANSWERS = [
    *(
        "A",
        "B",
        "C",
        "D",
        "E",
        "Z",
        "a",
        "b.",
        "A.",
        "(B)",
        "[C]",
        "{D}",
        "#A",
        "*B*",
        "C!",
        "D;",
        "A:B",
        "-C",
        "D-",
        "<A>",
    ),
    *(
        "A. cat",
        "B) a dog",
        "C, Red",
        "A or B",
        "A A A",
        "A and B",
        "Z A",
        "Z.",
        "OptionA",
        "A）",
        "选A",
        "答案是 B",
        "答案是B",
    ),
    *(
        "one two three A",
        "A one two three",
        "A one two three four",
        "one A two three four",
        "A two three four five Z",
        "A photo of it",
        "I",
        "Ａ",
        "𝐀",
    ),
    *(
        "the answer is A",
        "The answer is B.",
        "answer is **C**, not A or B",
        "ANSWER\nIS\t*D",
        "answer is blue",
        "answer is c",
    ),
    *(
        "The correct  answer is: A",
        "correct answer is E, answer is A",
        "answer isA",
        "answer is Dog or A B",
        "my answer is A B",
    ),
    *(
        "cat",
        "CAT",
        "a cat",
        "It is a dog",
        "a dog, a cat",
        "red",
        "colored",
        "7",
        "17",
        "cat cat cat cat cat cat cat cat",
    ),
    *(
        "no",
        "none",
        "nanny",
        "an",
        "nan",
        "Nan",
        "None",
        "N/A",
        "null",
        "",
        " ",
        "\n",
        "A\n",
        "\tB\r\n",
        "\u2028C",
        "\xa0D",
    ),
    *(
        "\ufeffA",
        "3.5",
        "3",
        "35",
        "the left one",
        "猫",
        "一只猫",
        "=A",
        "= B",
        "=",
        "#REF!",
        "#N/A",
        "'A'",
        '"A"',
        "A\\B",
    ),
    *(
        "Cannot determine the answer A",
        "I can't process this file.",
        "Sorry, I can't help with images of people yet. A",
    ),
    *(
        "I'm sorry, but without the image provided, B",
        "Failed to obtain answer via API",
        "Failed to obtain answer via API A cat",
    ),
    *(
        "A" * 40,
        "x" * 26,
        "cat" + "x" * 21,
        "cat" + "x" * 50,
        "İ" * 13,
        "no" + "İ" * 7,
        "no" + "İ" * 9,
        "_x0041_",
        "True",
    ),
]
ABILITIES = [
    *("coarse_perception", "finegrained_perception (instance-level)", "finegrained_perception (cross-instance)"),
    *("logic_reasoning", "relation_reasoning", "attribute_reasoning"),
]
COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category"]
COLUMNS += ["comment", "split"]
WORDS = [
    "cat",
    "a dog",
    "Red",
    "two",
    "No",
    "an",
    "None",
    "N/A",
    "=2",
    "#REF!",
    "7",
    "4.0",
    "05",
    "猫",
    'a "b" c',
    "two\nlines",
]
NUMBERS = ["1", "2", "4.0", "05", "3.50"]


def rows(seed: int, questions: int, texts: list[str]) -> list[dict[str, str]]:
    """A table with every rotation, of questions with two to four options."""
    rng = random.Random(seed)
    found = []
    for q in range(1, questions + 1):
        count = rng.choice([2, 3, 4, 4, 4])
        options, right = [rng.choice(texts) for _ in range(count)], rng.randrange(count)
        ability, category = rng.choice(ABILITIES), f"category {rng.randrange(4)}"
        for turn in range(count):
            turned = [*options[turn:], *options[:turn], *[""] * (4 - count)]
            row = dict(zip("ABCD", turned, strict=True)) | {"answer": "ABCD"[(right - turn) % count]}
            row |= {"index": str(q + turn * 1_000_000), "question": f"what is {q}?", "split": "dev"}
            row |= {"hint": ["", "look", "none"][q % 3], "image": "", "source": "s", "comment": ""}
            found.append(row | {"category": category, "l2-category": ability})
    return found


def write_table(path: Path, table: list[dict[str, str]], columns: list[str] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return path


def answers(seed: int, table: list[dict[str, str]]) -> dict[str, str]:
    """An answer to most rows, half of them the right letter."""
    rng = random.Random(seed)
    found = {}
    for row in table:
        text = row["answer"] if rng.random() < 0.8 else rng.choice([*ANSWERS, row["A"], f"It is {row['B']}"])
        if rng.random() < 0.97:
            found[row["index"]] = text
    return found


def write_lines(path: Path, said: dict[str, str], **extra: object) -> Path:
    """LLaVA's answer lines."""
    lines = [{"question_id": int(i), "round_id": 0, "prompt": "p", "text": t} | extra for i, t in said.items()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
