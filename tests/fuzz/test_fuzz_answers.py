"""Any answer file, question file or report is scored or refused in one line: no other exception, no figure that is NaN.

make fuzz ARGS=tests/fuzz/test_fuzz_answers.py
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from cases import cases

from remora.catalog import PAPERS
from remora.errors import DataError, RemoraError
from remora.evaluation.benchmarks import benchmark, located, score
from remora.evaluation.compare import compare_reports
from remora.evaluation.kept import read_report
from support.eval_folder import write_eval_folder
from support.nasty_answers import broken, text

METRICS = ("exact-match", "multiple-choice", "yes-no", "vqa-accuracy")


class NoJudge:
    """A judge that gives what any model might say."""

    model = "any"

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def ask(self, messages: list[dict[str, str]], *, temperature: float, max_tokens: int) -> str:
        return self.rng.choice(["0.5", "7 8", "", "nan", "1e400", "-3", "no idea", text(self.rng)])


@pytest.fixture(scope="module")
def eval_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_eval_folder(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="module")
def owns(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("own")
    asked = [
        {"question_id": i, "image": f"{i % 3}.png", "text": "Which?", "answer": ("yes", "no")[i % 2], "category": "c",
         "choices": ["yes", "no"], "answers": ["yes", "no"]}
        for i in range(6)
    ]  # fmt: skip
    for metric in METRICS:
        (root / f"{metric}.jsonl").write_text("".join(json.dumps(q) + "\n" for q in asked))
        said = f"{{title: t, questions: {metric}.jsonl, images: ., metric: {metric}, max_new_tokens: 4}}"
        (root / f"{metric}.yaml").write_text(said)
    return [root / f"{metric}.yaml" for metric in METRICS]


def answers_to(rng: Random, name: str, data: Path) -> list[dict[str, object]]:
    """A model's answer lines as `remora evaluate` writes them, with any text."""
    lines = []
    for q in benchmark(name).questions(data):
        said = rng.choice(["A", "yes", "No.", "red", "(B)", "7", text(rng)])
        lines.append({"question_id": q.id, "prompt": q.prompt or q.text, "text": said, **q.extra})
    return lines


def outcome(name: str, data: Path, answers: Path, rng: Random) -> str:
    try:
        report = score(benchmark(name), data, answers, judge=NoJudge(rng))
    except RemoraError as e:
        assert "\n" not in str(e) and len(str(e)) < 2000, str(e)
        return "refused"
    figures = [*report.metrics.values(), *(v for pair in report.intervals.values() for v in pair)]
    assert all(map(math.isfinite, figures)), report.metrics
    assert all(math.isfinite(i.score) for i in report.items)
    assert all("\n" not in w for w in report.warnings)
    json.dumps(report.as_json(), allow_nan=False).encode("utf-8", "surrogatepass")
    return "scored"


def test_any_answer_file_is_scored_or_refused(eval_data, owns, tmp_path):
    rng = Random(0)
    names = [(n, located(n, tmp_path, eval_data)) for n in PAPERS if n != "mmbench-cn"]
    names += [(str(p), p.parent) for p in owns]
    good = {name: answers_to(rng, name, data) for name, data in names}
    outcomes: Counter[str] = Counter()
    file = tmp_path / "answers.jsonl"
    for _ in range(cases(400)):
        name, data = rng.choice(names)
        file.write_bytes(broken(rng, good[name], lines=rng.random() < 0.8))
        outcomes[outcome(name, data, file, rng)] += 1
    assert min(outcomes["scored"], outcomes["refused"]) > sum(outcomes.values()) / 20, outcomes


def test_any_question_file_is_read_or_refused(owns, tmp_path):
    rng = Random(1)
    outcomes: Counter[str] = Counter()
    for _ in range(cases(200)):
        yaml = rng.choice(owns)
        asked = [json.loads(line) for line in yaml.with_suffix(".jsonl").read_text().splitlines()]
        (tmp_path / yaml.name).write_text(yaml.read_text())
        (tmp_path / f"{yaml.stem}.jsonl").write_bytes(broken(rng, asked, lines=rng.random() < 0.8))
        answers = tmp_path / "answers.jsonl"
        lines = [{"question_id": rng.choice([i, str(i)]), "text": text(rng)} for i in range(6)]
        answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
        chosen = benchmark(str(tmp_path / yaml.name))
        try:
            asks = [*chosen.questions(tmp_path), *chosen.blind(tmp_path)]
        except DataError as e:
            assert "\n" not in str(e)
            outcomes["refused"] += 1
            continue
        assert all(isinstance(q.text, str) and len(q.pictures) == 1 for q in asks)
        outcomes[outcome(str(tmp_path / yaml.name), tmp_path, answers, rng)] += 1
    assert min(outcomes["scored"], outcomes["refused"]) > sum(outcomes.values()) / 20, outcomes


def test_any_report_is_compared_or_refused(owns, tmp_path):
    rng = Random(2)
    outcomes: Counter[str] = Counter()
    answers, file = tmp_path / "answers.jsonl", tmp_path / "report.json"
    answers.write_text("".join(json.dumps({"question_id": i, "text": "yes"}) + "\n" for i in range(6)))
    reports = [score(benchmark(str(p)), p.parent, answers) for p in owns]
    for _ in range(cases(200)):
        report = rng.choice(reports)
        file.write_bytes(broken(rng, report.as_json(), lines=False))
        try:
            found = compare_reports({report.benchmark: (report, read_report(file).report)})
            json.dumps({n: c.as_json() for n, c in found.items()})
            outcomes["compared"] += 1
        except RemoraError as e:
            assert "\n" not in str(e), str(e)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > sum(outcomes.values()) / 20, outcomes
