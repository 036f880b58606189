"""Traces of served requests in MLflow, written by a thread that no request waits for.

    traces = Traces(runs, uri)
    traces.put(TraceSpan("chat", began_ns, ended_ns))      # returns at once, whatever MLflow does
    traces.close()

While MLflow is down traces are dropped and counted, and one line says so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from remora.errors import RemoraError
from remora.tracking.connection import Connection, MlflowRefused
from remora.tracking.tracker import Tracker

log = logging.getLogger(__name__)
EXPERIMENT = "remora endpoint"
"""Apart from training's runs, whose page shows no traces."""
WAITING = 1000
"""Traces that wait to be written; further ones are dropped."""
USAGE = "mlflow.chat.tokenUsage"
"""MLflow's attribute with input_tokens, output_tokens and total_tokens, from which it draws."""


@dataclass(frozen=True)
class TraceSpan:
    """A span of time in a request, and the spans within. Times are nanoseconds since 1970."""

    name: str
    began_ns: int
    ended_ns: int
    kind: str = "UNKNOWN"
    """MLflow's type of span: CHAT_MODEL, LLM, PARSER, …"""
    inputs: Mapping[str, object] = field(default_factory=dict)
    outputs: Mapping[str, object] = field(default_factory=dict)
    attributes: Mapping[str, object] = field(default_factory=dict)
    error: str | None = None
    parts: tuple[TraceSpan, ...] = ()


class Traces:
    """A bounded queue of traces and the thread that writes them. Any thread may put."""

    def __init__(
        self,
        runs: Path,
        uri: str | None = None,
        experiment: str = EXPERIMENT,
        note: Callable[[str], None] = log.warning,
    ) -> None:
        self.written = self.dropped = self._put = 0
        self._uri = Tracker(runs, uri).uri
        self._connection = Connection(runs, self._uri, experiment)
        self._note = note
        self._told: set[str] = set()
        self._given_up = False
        self._waiting: queue.Queue[TraceSpan | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write_all, name="traces", daemon=True)
        self._thread.start()

    def put(self, trace: TraceSpan) -> None:
        """Have a trace written, or drop it if too many wait."""
        self._put += 1
        try:
            self._waiting.put_nowait(trace)
        except queue.Full:
            self.dropped += 1
            self._say(f"{WAITING} traces wait for MLflow; further ones are dropped")

    def close(self, seconds: float = 5.0) -> None:
        """Write what waits, for so many seconds at most. The rest is dropped, and one line says how many were."""
        before, end = self.written, time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=seconds)
        self._thread.join(max(0.0, end - time.monotonic()))
        self._given_up = True  # what is counted as dropped is not written later
        left = self._put - self.written - self.dropped  # one of them may be on its way
        self.dropped += left
        late = f", {left:,} that were not written within {seconds:g} s among them" if left else ""
        if before < self.written or self.dropped:
            self._note(
                f"the endpoint stops: {self.written - before:,} waiting traces were written to MLflow, "
                f"{self.written:,} in all; {self.dropped:,} were dropped{late}"
            )

    def _write_all(self) -> None:
        while (trace := self._waiting.get()) is not None and not self._given_up:
            try:
                self._write(trace)
                self.written += 1
            except RemoraError as e:
                self.dropped += 1
                self._say(f"{e}; answers go on, their traces are dropped until it is back")
            except Exception as e:  # a fault of MLflow's or ours: of traces alone
                self.dropped += 1
                log.exception("a trace was not written")
                self._say(f"a trace was not written: {type(e).__name__}")

    def _write(self, trace: TraceSpan) -> None:
        os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")  # this thread is asynchronous enough
        with self._connection.answers() as client:
            experiment = self._connection.open()
            client.get_experiment(experiment)  # MLflow's exporter would only log that nobody answers
            # Of a module that MLflow imports with its first span; it says nothing about traces.
            warnings.filterwarnings("ignore", r".*Any type hint is inferred", UserWarning)
            import mlflow

            if mlflow.get_tracking_uri() != self._uri:  # the exporter asks for no other
                mlflow.set_tracking_uri(self._uri)
            self._span(trace, None, experiment)

    def _span(self, span: TraceSpan, parent: object, experiment: str) -> None:
        from mlflow import start_span_no_context
        from mlflow.entities import LiveSpan

        made = start_span_no_context(
            span.name,
            span_type=span.kind,
            parent_span=parent if isinstance(parent, LiveSpan) else None,
            inputs=dict(span.inputs) or None,
            experiment_id=None if parent else experiment,
            start_time_ns=span.began_ns,
        )
        if not isinstance(made, LiveSpan):  # MLflow has logged why
            raise MlflowRefused(f"MLflow at {self._connection.shown} begins no span")
        made.set_attributes(dict(span.attributes))
        for part in span.parts:
            self._span(part, made, experiment)
        if span.error:
            made.set_attribute("error", span.error)
        made.end(outputs=dict(span.outputs) or None, status="ERROR" if span.error else "OK", end_time_ns=span.ended_ns)

    def _say(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._note(line)
