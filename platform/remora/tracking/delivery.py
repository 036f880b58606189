"""Delivery of calls to MLflow: at once while it answers, else later, always in order.

A call that finds others waiting waits behind them. While MLflow is away a call costs a line in a file; MLflow is asked
again at a pace that costs a training a tenth of its time at most.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from remora.errors import StoreError
from remora.files.lines import parse
from remora.tracking.backlog import FIRST, Backlog, whole
from remora.tracking.connection import Missing, Refused, Unreachable
from remora.tracking.resend import Sent
from remora.tracking.server import NO_STEP, Server

log = logging.getLogger(__name__)

PENDING = "pending-"
T = TypeVar("T")


class Delivery:
    """The way of records from one process to one server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.backlog = Backlog(server.runs)
        self.sent = Sent(server.runs)
        self.lock = threading.RLock()
        self._real: dict[str, str] = {}  # pending id → run id
        self._rest_until = 0.0
        self._warned = False

    def send(self, record: dict[str, Any], urgent: bool = False) -> None:
        """Make the call now if nothing waits before it, else let it wait as the last. Never raises for MLflow's sake.

        Args:
            urgent: Ask MLflow even if it did not answer a moment ago.
        """
        with self.lock:
            if urgent:
                self._rest_until = 0.0
            try:
                if not self._delivered(record):
                    self.backlog.append(record)
            except (OSError, StoreError) as e:
                log.error("tracking: call %s is lost, it cannot be kept in %s: %s", record["do"], self.backlog.path, e)

    def replay(self) -> int:
        """Write the waiting calls now; how many still wait afterwards."""
        with self.lock:
            self._rest_until = 0.0
            self.caught_up(wait=60.0)
            return len(self.backlog.lines())

    def started(self, pending: str) -> str:
        """The id to hand out for a start that was sent."""
        return self._real.get(pending, pending)

    def last_step(self, run: str) -> int:
        return self._asked(lambda: self.server.last_step(self.real(run)), NO_STEP)

    def finished(self, key: str) -> str | None:
        return self._asked(lambda: self.server.find(key, "FINISHED"), None)

    def _asked(self, question: Callable[[], T], otherwise: T) -> T:
        """MLflow's answer once no call waits; `otherwise` when it gives none."""
        with self.lock:
            try:
                return question() if self.caught_up() else otherwise
            except Unreachable as e:
                self._failed(e)
            except Refused as e:
                log.warning("tracking: %s", e)
        return otherwise

    def real(self, run: str) -> str:
        """MLflow's id of a run that was started while MLflow did not answer; any other id as it is.

        Raises:
            Unreachable, Refused: no answer; the run was never made.
        """
        if not run.startswith(PENDING):
            return self._real.get(run, run)
        if run not in self._real:
            with self.lock:
                found = self.server.find(run.removeprefix(PENDING))
            if found is None:
                raise Refused(f"MLflow at {self.server.shown} has no run for {run}; `Tracker.replay` makes it")
            self._real[run] = found
        return self._real[run]

    def _delivered(self, record: dict[str, Any]) -> bool:
        try:
            if not self.caught_up():
                return False
            self._perform(record)
        except Refused as e:
            self._reject(json.dumps(record), e)
        except (Unreachable, StoreError) as e:
            self._failed(e)
            return False
        return True

    def _perform(self, record: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            try:
                self._write(record)
            except Missing:
                # MLflow may have been started again with an empty database: then the experiment is gone, too.
                self.server.forget()
                if record[FIRST] != "start" and not self._made_anew(record["run"]):
                    raise
                self._write(record)
        except Unreachable:
            # Rest ten times as long as the failure took, so that a dead server costs a training a tenth at most.
            took = time.monotonic() - began
            self._rest_until = time.monotonic() + max(1.0, 10 * took)
            raise

    def _write(self, record: dict[str, Any]) -> None:
        if record[FIRST] == "start":
            run = self._real[record["run"]] = self.server.start(record, self._parent(record))
        else:
            run = self.real(record["run"])
            self.server.write(run, record)
        self.sent.keep(record, run)

    def _made_anew(self, run: str) -> bool:
        """Make a run that MLflow lost, with all that was written to it; False if nothing is known of it."""
        start, calls = self.sent.of(run)
        if start is None:
            return False
        log.warning("tracking: MLflow at %s lost run %s; it is made anew", self.server.shown, start["name"])
        new = self._real[run] = self._real[start["run"]] = self.server.start(start, self._parent(start))
        for old in {start.get("real"), *(call.get("real") for call in calls)} - {None, new}:
            self._real[str(old)] = new
        self.sent.keep(start, new)
        for steps in self.sent.steps(start):
            self.server.write(new, {FIRST: "steps", "run": new, "steps": steps})
        for call in calls:
            with contextlib.suppress(Refused):  # files that are gone meanwhile
                self.server.write(new, call)
        return True

    def _parent(self, record: dict[str, Any]) -> str | None:
        try:
            if not record["parent"]:
                return None
            parent = self.real(record["parent"])
            if not self.server.has(parent) and self._made_anew(parent):
                parent = self.real(parent)
            return parent
        except Refused as e:
            log.warning("tracking: run %s stays without its parent: %s", record["name"], e)
            return None

    def caught_up(self, wait: float = 0.0) -> bool:
        """Whether no call waits, after an attempt to write those that do (unless MLflow failed a moment ago)."""
        if time.monotonic() < self._rest_until:
            return False
        try:
            if not self.backlog.empty():
                with self.backlog.replaying(wait) as mine:
                    while mine and self._replay_lines():
                        pass  # what was appended meanwhile
            if not self.backlog.empty():
                return False
        except (Unreachable, StoreError, OSError) as e:
            self._failed(e)
            return False
        if self._warned:
            log.warning("tracking: MLflow at %s answers again, the waiting calls are written", self.server.shown)
            self._warned = False
        return True

    def _replay_lines(self) -> bool:
        done = 0
        try:
            for line, end in self.backlog.lines():
                self._replay_line(line)
                done = end
        finally:
            self.backlog.forget(done)
        return done > 0

    def _replay_line(self, line: bytes) -> None:
        found = parse(line + b"\n", FIRST, whole)
        for record in found.records:
            try:
                self._perform(record)
            except Refused as e:
                self._reject(json.dumps(record), e)
        if found.torn:
            self._reject(line.decode(errors="replace"), Refused("half a line, from a process that died while it wrote"))

    def _reject(self, line: str, error: Refused) -> None:
        log.warning("tracking: %s (the call is kept in %s)", error, self.backlog.rejected)
        self.backlog.reject(line, str(error))

    def _failed(self, error: Exception) -> None:
        if not self._warned:
            log.warning("tracking: %s; training goes on, its calls wait in %s", error, self.backlog.path)
        self._warned = True
