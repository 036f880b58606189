"""Traces of answers in MLflow: whole, without texts; and MLflow's faults are no request's."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient

from remora.serving import tracer
from remora.serving.api import api
from remora.serving.args import EndpointArgs
from remora.serving.engines.builtin import BuiltinEngine
from remora.serving.versions import table_of
from remora.tracking import traces
from remora.tracking.traces import EXPERIMENT, USAGE, Traces, TraceSpan
from support.ports import free_port
from support.serving_fake import CHAT, call, load

SECRET = "the patient in the picture"


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.traces: list[TraceSpan] = []

    def put(self, trace: TraceSpan) -> None:
        self.traces.append(trace)

    def close(self) -> None:
        pass


def traced(monkeypatch: pytest.MonkeyPatch, *bodies: dict[str, Any]) -> list[TraceSpan]:
    kept = Kept()
    monkeypatch.setattr("remora.serving.api.traced", lambda args: tracer.Tracer(kept))
    statuses = [call("POST", CHAT, EndpointArgs(trace=True), json=body).status_code for body in bodies]
    assert len(statuses) == len(bodies)
    return kept.traces


def hi(**fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": SECRET}], **fields}


def test_an_answer_is_traced_without_its_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in traced(monkeypatch, hi(n=2, temperature=0.5), hi(n=2, temperature=0.5, stream=True)):
        assert SECRET not in repr(found) and found.error is None
        assert (found.name, found.kind) == ("chat completion", "CHAT_MODEL")
        assert [part.name for part in found.parts] == ["read", "first token", "decode"]
        times = [found.began_ns, *(part.ended_ns for part in found.parts), found.ended_ns]
        assert times == sorted(times)
        assert found.inputs["n"] == 2 and found.inputs["temperature"] == 0.5 and found.inputs["messages"] == 1
        assert found.outputs == {"finish_reasons": ["stop", "stop"]}
        assert found.attributes[USAGE] == {"input_tokens": 7, "output_tokens": 6, "total_tokens": 13}
        assert found.attributes["system_fingerprint"] == "remora@3"


def test_a_failure_is_traced_and_a_refusal_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = {"messages": [{"role": "user", "content": "explode"}]}
    (found,) = traced(monkeypatch, failing, hi(temperature=3), {"messages": []})
    assert found.error == "KeyError" and len(found.parts) == 2


def test_nothing_is_traced_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remora.serving.api.traced", lambda args: pytest.fail("traced"))
    assert call("POST", CHAT, EndpointArgs(), json=hi()).status_code == 200


@pytest.mark.slow
def test_mlflow_has_the_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    args = EndpointArgs(trace=True, runs=tmp_path / "runs")

    async def go() -> None:
        champion = load(args)
        engine = BuiltinEngine.of(champion.answerer, args.cache_bytes)
        table = table_of(args.model, args.alias, champion.facts)
        app = api(args, lambda: table, {args.model: engine})
        async with app.router.lifespan_context(app):  # its end writes what waits
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                for stream in (False, True):
                    assert (await client.post(CHAT, json=hi(stream=stream))).status_code == 200
            await asyncio.sleep(0)
        await engine.drain()

    monkeypatch.setattr(Traces, "close", lambda self, close=Traces.close: close(self, 300))
    try:
        asyncio.run(go())
        client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        found = client.search_traces(locations=[experiment.experiment_id])
    finally:
        mlflow.set_tracking_uri(before)
    assert len(found) == 2
    for one in found:
        assert SECRET not in json.dumps(one.to_dict(), default=str)
        assert [span.name for span in one.data.spans] == ["chat completion", "read", "first token", "decode"]
        assert one.info.token_usage == {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
        assert 0 <= one.info.execution_duration < 600_000


@pytest.mark.slow
def test_a_server_that_is_away_costs_traces_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    away = Traces(tmp_path / "runs", f"http://127.0.0.1:{free_port()}", note=notes.append)
    for _ in range(3):
        away.put(TraceSpan("chat", 1, 2))
    away.close(120)
    assert (away.written, away.dropped) == (0, 3)
    assert len(notes) == 2 and "answers go on, their traces are dropped" in notes[0]
    assert notes[1] == ("the endpoint stops: 0 waiting traces were written to MLflow, 0 in all; 3 were dropped")


def test_a_server_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, notes = threading.Event(), list[str]()
    monkeypatch.setattr(traces, "WAITING", 5)
    monkeypatch.setattr(Traces, "_write", lambda self, trace: go.wait(600))
    hung = Traces(tmp_path / "runs", note=notes.append)
    began = time.monotonic()
    for _ in range(1000):
        hung.put(TraceSpan("chat", 1, 2))
    assert 994 <= hung.dropped <= 995 and len(notes) == 1 and time.monotonic() - began < 60
    go.set()
    hung.close(60)
    assert hung.written + hung.dropped == 1000
    assert notes[1:] == [
        f"the endpoint stops: {hung.written} waiting traces were written to MLflow, {hung.written} in all; "
        f"{hung.dropped} were dropped"
    ]


@pytest.mark.parametrize("waiting", [1, 5, 6])
def test_what_still_waits_when_the_endpoint_stops_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    began, go, notes = threading.Event(), threading.Event(), list[str]()
    monkeypatch.setattr(traces, "WAITING", 5)
    asked: list[TraceSpan] = []
    monkeypatch.setattr(Traces, "_write", lambda self, trace: (asked.append(trace), began.set(), go.wait(600)))
    hung = Traces(tmp_path / "runs", note=notes.append)
    hung.put(TraceSpan("chat", 1, 2))
    assert began.wait(600)
    for _ in range(waiting - 1):
        hung.put(TraceSpan("chat", 1, 2))
    hung.close(0.05)
    go.set()
    hung._thread.join(600)
    assert len(asked) == 1  # none of the dropped ones is written later
    assert notes == [
        f"the endpoint stops: 0 waiting traces were written to MLflow, 0 in all; {waiting} were dropped, {waiting} "
        "that were not written within 0.05 s among them"
    ]


def test_an_endpoint_without_answers_says_nothing_of_traces_when_it_stops(tmp_path: Path) -> None:
    notes = list[str]()
    Traces(tmp_path / "runs", note=notes.append).close(60)
    assert notes == []
