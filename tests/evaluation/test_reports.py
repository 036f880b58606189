"""Kept reports: found by a model's weights, compared with another model's, whatever the two are called."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from remora.cli import main
from remora.errors import DataError
from remora.evaluation.benchmarks import benchmark, score
from remora.evaluation.kept import read_report, reports_of
from remora.evaluation.sheet import About
from remora.files import publishing, write_json
from remora.inference.bundle import FILE, weights_digest

SAID = {
    "name": "base-Eff-2M-mlp",
    "parts": {
        "vision": {"name": "efficientnet-lite0", "folder": None, "adapters": []},
        "connector": {"name": "mlp2x_gelu", "folder": "connector", "adapters": []},
        "llm": {"name": "demo-2m", "folder": "llm", "adapters": []},
    },
    "template": "brief",
    "aspect": "pad",
    "seed": 0,
    "about": {},
}


def bundle(folder: Path, weights: bytes = b"one", **said) -> Path:
    """A folder laid out as a bundle is; what is in its weights does not matter here."""
    with publishing(folder) as tmp:
        for part in ("connector", "llm"):
            (tmp / part).mkdir()
            (tmp / part / "model.safetensors").write_bytes(weights)
        write_json(tmp / FILE, SAID | said)
    return folder


def own_benchmark(root: Path, name: str = "held", count: int = 8) -> Path:
    file = root / f"{name}.yaml"
    file.write_text(f"{{title: t, questions: {name}.jsonl, images: ., metric: exact-match, max_new_tokens: 4}}")
    asked = [{"question_id": i, "image": f"{i}.png", "text": "What?", "answer": f"w{i}"} for i in range(count)]
    (root / f"{name}.jsonl").write_text("".join(json.dumps(q) + "\n" for q in asked))
    return file


def measured(runs: Path, model: Path, yaml: Path, right: int, questions: str = "q") -> Path:
    """The folder that measuring `model` leaves, with that many right answers."""
    about = About(json.loads((model / FILE).read_text())["name"], weights_digest(model), yaml.stem, questions)
    folder = runs / "scores" / about.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "about.json", asdict(about))
    count = len(yaml.with_suffix(".jsonl").read_text().splitlines())
    lines = [{"question_id": i, "text": f"w{i}" if i < right else "no"} for i in range(count)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = score(benchmark(str(yaml)), yaml.parent, folder / "answers.jsonl")
    write_json(folder / "report.json", report.as_json())
    return folder


def compared(capsys, runs: Path, *of: object) -> dict[str, dict]:
    main(["compare", *map(str, of), "--json", "--runs", str(runs)])
    return json.loads(capsys.readouterr().out)


def refused(capsys, runs: Path, *of: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *map(str, of), "--runs", str(runs)])
    said = str(stopped.value)
    assert said.startswith("remora: ") and "\n" not in said
    return said


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def test_two_models_of_one_name_are_two_models(tmp_path, runs, capsys):
    yaml = own_benchmark(tmp_path)
    good, bad = bundle(tmp_path / "good", b"one"), bundle(tmp_path / "bad", b"other")
    measured(runs, good, yaml, 6)
    measured(runs, bad, yaml, 0)
    figure = compared(capsys, runs, good, bad)["held"]["figures"]["accuracy"]
    assert (figure["a"], figure["b"]) == (0.75, 0.0) and figure["p"] < 0.05


def test_an_own_benchmark_is_compared_when_its_file_is_gone(tmp_path, runs, capsys):
    yaml = own_benchmark(tmp_path)
    one, other = bundle(tmp_path / "one", b"one"), bundle(tmp_path / "other", b"other")
    measured(runs, one, yaml, 6)
    measured(runs, other, yaml, 2)
    yaml.unlink()
    assert set(compared(capsys, runs, one, other)) == {"held"}


def test_one_model_is_not_compared_with_itself(tmp_path, runs, capsys):
    yaml = own_benchmark(tmp_path)
    one = bundle(tmp_path / "one")
    folder = measured(runs, one, yaml, 6)
    renamed = bundle(tmp_path / "renamed", name="share-Eff-2M-mlp", about={"benchmarks": ["held"]})
    for other in (one, renamed, folder / "report.json"):
        assert "are one model" in refused(capsys, runs, one, other)


def test_models_are_compared_on_the_questions_that_both_were_asked(tmp_path, runs, capsys):
    yaml = own_benchmark(tmp_path)
    one, other = bundle(tmp_path / "one", b"one"), bundle(tmp_path / "other", b"other")
    measured(runs, one, yaml, 6, "old")
    measured(runs, other, yaml, 2, "old")
    more = own_benchmark(tmp_path, count=20)
    measured(runs, one, more, 20, "new")
    figure = compared(capsys, runs, one, other)["held"]
    assert figure["n"] == 8 and figure["figures"]["accuracy"]["a"] == 0.75


def test_what_was_not_measured_on_one_benchmark_cannot_be_compared(tmp_path, runs, capsys):
    one, other = bundle(tmp_path / "one", b"one"), bundle(tmp_path / "other", b"other")
    measured(runs, one, own_benchmark(tmp_path), 6)
    said = refused(capsys, runs, one, other)
    assert "was measured on held" in said and "on nothing" in said


def test_weights_are_all_that_decides_an_answer(tmp_path):
    digests = {
        kind: weights_digest(bundle(tmp_path / kind, **change))
        for kind, change in {
            "same": {},
            "name": {"name": "other"},
            "spec": {"about": {"variant": {"benchmarks": ["pope"]}}},
            "seed": {"seed": 1},
            "weights": {"weights": b"two"},
            "template": {"template": "vicuna"},
            "aspect": {"aspect": "square"},
        }.items()
    }
    assert digests["same"] == digests["name"] == digests["spec"] == digests["seed"]
    assert len(set(digests.values())) == 4
    fresh = SAID["parts"] | {"connector": {"name": "mlp2x_gelu", "folder": None, "adapters": []}}
    assert weights_digest(bundle(tmp_path / "f0", parts=fresh)) != weights_digest(
        bundle(tmp_path / "f1", parts=fresh, seed=1)
    )


def test_a_torn_bundle_is_one_line_before_a_cluster_is_started(tmp_path, runs, monkeypatch):
    monkeypatch.setattr("remora.commands.evaluate.executor_of", lambda *_: pytest.fail("a cluster was started"))
    torn = bundle(tmp_path / "torn")
    (torn / "llm" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(torn), "--benchmarks", str(own_benchmark(tmp_path)), "--runs", str(runs)])
    said = str(stopped.value)
    assert "llm/model.safetensors does not match its sha256; copy it again whole" in said and "\n" not in said
    assert "will be made again" not in said


def test_no_benchmark_is_one_line_before_a_cluster_is_started(tmp_path, runs, monkeypatch):
    monkeypatch.setattr("remora.commands.evaluate.executor_of", lambda *_: pytest.fail("a cluster was started"))
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(bundle(tmp_path / "one")), "--benchmarks", ",", "--runs", str(runs)])
    assert "--benchmarks names none; there are: vqav2" in str(stopped.value) and "\n" not in str(stopped.value)


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"benchmark": 1}', "[" * 5000])
def test_what_is_no_report_is_named(tmp_path, content):
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"report\.json: not a report") as caught:
        read_report(file)
    assert "\n" not in str(caught.value)


def test_folders_that_say_nothing_of_themselves_are_nobodys(tmp_path, runs):
    yaml = own_benchmark(tmp_path)
    one = bundle(tmp_path / "one")
    folder = measured(runs, one, yaml, 6)
    assert [k.file.parent for k in reports_of(runs / "scores", weights_digest(one))] == [folder]
    (folder / "about.json").write_text("{}")
    assert reports_of(runs / "scores", weights_digest(one)) == []


def test_a_report_keeps_what_it_is_summed_up_by(tmp_path, runs):
    yaml = own_benchmark(tmp_path)
    folder = measured(runs, bundle(tmp_path / "one"), yaml, 6)
    kept = read_report(folder / "report.json").report
    assert kept == score(benchmark(str(yaml)), tmp_path, folder / "answers.jsonl")
    assert replace(kept, own=None) != kept and kept.own["metric"] == "exact-match"
