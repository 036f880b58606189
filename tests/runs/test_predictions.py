"""What was predicted of a stage run is stored beside what came, and read again; seconds around training are, too."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from remora import catalog
from remora.files import publishing
from remora.model.refs import PartRef
from remora.processes import cpu_kind
from remora.runs import predictions
from remora.runs.around import Around, around
from remora.runs.predictions import (
    LOOKED_AT,
    CheckedPrediction,
    Figures,
    Prediction,
    came,
    checked_predictions,
    foretell,
    record_line,
    told,
)
from remora.spec import Cluster
from remora.training import journal
from remora.training.events import JournalEvent
from remora.training.job import StageJob


def job_in(folder: Path, **cluster: float) -> StageJob:
    (stage,) = (s for s in catalog.recipe("base").stages if s.name == "align")
    names = {"vision": "clip-l-336", "connector": "mlp2x_gelu", "llm": "tinyllama-1.1b-chat"}
    parts = {part: PartRef(name, None) for part, name in names.items()}
    folder.mkdir(parents=True)
    return StageJob(stage, parts, folder, [], 0, Cluster.model_validate(cluster))


def write_journal(folder: Path, *, attempts: int = 1, workers: int = 2) -> None:
    """Of two steps a second and 1.5 GiB."""
    events = [{"event": "started", "time": 1.0, "workers": workers}] * attempts
    figures = {"samples": 4, "samples_per_second": 8.0, "memory": 1.5}
    events += [{"event": "step", "time": 2.0, "step": i, **figures} for i in range(10)]
    (folder / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


def prediction(**figures: float) -> Prediction:
    return Prediction(cpu_kind(), 2, Figures(**figures), 1.0, "assumed")


def events_of(job: StageJob) -> list[JournalEvent]:
    return list(journal.read(job.folder / "journal.jsonl"))


def test_what_came_is_read_off_the_journal(tmp_path: Path) -> None:
    job = job_in(tmp_path / "one", gpus_per_worker=1, gpu_price=3.6)
    write_journal(job.folder)
    assert came(job, events_of(job), 20.0) == Figures(1.5, 0.5, 20.0, pytest.approx(20 * 2 * 0.001))
    write_journal(job.folder, attempts=2)  # the seconds are of the last attempt alone
    assert came(job, events_of(job), 20.0) == Figures(1.5, 0.5, None, None)


def test_predictions_are_held_against_what_came(tmp_path: Path) -> None:
    for i, step in enumerate((0.45, 0.55)):
        job = job_in(tmp_path / f"stages/align-{i}.work")
        write_journal(job.folder)
        said = prediction(memory=1.5 * (0.97, 1.06)[i], step=step, seconds=20.0)
        (job.folder / "predicted.json").write_text(json.dumps(asdict(said)))
        with publishing(tmp_path / f"stages/align-{i}") as made:
            (made / "record.json").write_text(json.dumps(told(job, events_of(job), 20.0)))
    found = checked_predictions(tmp_path, cpu_kind())
    assert len(found) == 2 and not checked_predictions(tmp_path, "NVIDIA H200")
    assert {one.prediction.figures.step for one in found} == {0.45, 0.55}
    line = "memory -3 … +6 %, time of a step -10 … +10 %, whole time +0 … +0 %"
    assert record_line(found) == f"last 2 predictions on this kind of device ({cpu_kind()}): {line}"
    assert record_line([]) == ""


def test_no_more_records_are_read_than_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run folder of years has thousands, and a plan asks twice."""
    said = {"predicted": asdict(prediction(step=1.0)), "came": asdict(Figures(step=2.0))}
    for i in range(LOOKED_AT + 9):
        with publishing(tmp_path / f"stages/align-{i:02}") as made:
            (made / "record.json").write_text(json.dumps(said))
        os.utime(tmp_path / f"stages/align-{i:02}", (i, i))
    read, reading = list[str](), predictions._read
    monkeypatch.setattr(predictions, "_read", lambda file: read.append(file.parent.name) or reading(file))
    assert len(checked_predictions(tmp_path, cpu_kind())) == LOOKED_AT
    assert read == [f"align-{i:02}" for i in reversed(range(9, LOOKED_AT + 9))]


def test_a_record_of_another_version_is_passed_over(tmp_path: Path) -> None:
    for i, said in enumerate(("{}", "not JSON", '{"predicted": {"device": "x"}, "came": {}}', '{"predicted": 1}')):
        with publishing(tmp_path / f"stages/align-{i}") as made:
            (made / "record.json").write_text(said)
    assert checked_predictions(tmp_path) == []


def test_an_error_is_relative_to_what_came() -> None:
    one = CheckedPrediction(prediction(memory=3.0, step=1.0), Figures(2.0, None, 5.0))
    assert [one.error(name) for name in ("memory", "step", "seconds", "cost")] == [0.5, None, None, None]


def test_training_goes_on_without_a_prediction(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a layer that is not known")

    monkeypatch.setattr(predictions, "predict", fails)
    job = job_in(tmp_path / "one")
    foretell(job, tmp_path, 1, None)
    assert "stage 'align': what it takes was not predicted: ValueError: a layer that is not known" in caplog.text
    assert told(job, [], 1.0) == {}
    (job.folder / "predicted.json").write_text("{}")
    caplog.clear()
    foretell(job, tmp_path, 1, None)  # an earlier attempt's is kept
    assert not caplog.text


def test_seconds_around_training_are_read_off_status_journals(tmp_path: Path) -> None:
    lines: dict[str, list[tuple[str, float, dict[str, object]]]] = {
        "search/first": [
            ("queued", 0.0, {}),
            ("stage", 20.0, {"run": "align-1", "stage": "align", "state": "training"}),
            ("evaluating", 100.0, {}),
            ("asked", 101.0, {"benchmark": "pope", "done": 0, "of": 9}),
            ("asked", 105.0, {"benchmark": "pope", "done": 9, "of": 9}),
            ("scored", 107.0, {"benchmark": "pope", "accuracy": 0.5}),
            ("scored", 107.5, {"benchmark": "gqa", "accuracy": 0.5}),  # read from an earlier report
        ],
        "search/second": [
            ("queued", 0.0, {}),
            ("stage", 500.0, {"run": "align-2", "stage": "align", "state": "training"}),
        ],
        "search/third": [
            ("queued", 0.0, {}),
            ("stage", 1.0, {"run": "align-2", "stage": "align", "state": "reused"}),
        ],
    }
    for name, events in lines.items():
        file = tmp_path / "status" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps({"event": e, "time": t, **more}) + "\n" for e, t, more in events))
    found = around(tmp_path)
    assert found == Around(20.0, {"pope": 7.0})
    assert found.asking(["pope", "gqa"]) == 7.0 and found.unknown(["gqa", "pope", "gqa"]) == ["gqa"]
    assert around(tmp_path / "none") == Around()


def test_a_processs_memory_is_learnt_from_what_came_here_or_in_a_calibration(tmp_path: Path) -> None:
    from remora.runs.memory import PROCESS
    from remora.runs.predictions import process_memory

    assert process_memory(tmp_path) == PROCESS
    for runs, memory in ((tmp_path / "calibration", 1.5), (tmp_path, 1.25)):
        said = {"predicted": asdict(prediction(memory=2.0)), "came": asdict(Figures(memory))}  # 1 GiB of tensors
        with publishing(runs / "stages/align-1") as made:
            (made / "record.json").write_text(json.dumps(said))
        assert process_memory(tmp_path) == (memory - 1) * (1 << 30)
