"""What a check says, and how checks are run: all at once, none for longer than its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PATIENCE = 30.0
"""Seconds that a check may take. A network file system that is gone keeps one for ever."""


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    good: bool
    said: str
    todo: str = ""
    """The next command or setting, if it is bad."""

    @property
    def mark(self) -> str:
        return "✓" if self.good else "✗"


def found(said: str) -> Finding:
    return Finding(True, said)


def trouble(said: str, todo: str) -> Finding:
    return Finding(False, said, todo)


Check = Callable[[], Finding]


def examined(checks: Mapping[str, Check], patience: float = PATIENCE) -> dict[str, Finding]:
    """What each check says, in their order. One that raises, or takes longer than `patience` seconds, is a finding."""
    said: dict[str, Finding] = {}

    def run(name: str, check: Check) -> None:
        try:
            said[name] = check()
        except Exception as e:  # noqa: BLE001 (a check that breaks must not hide the others)
            said[name] = trouble(f"the check itself failed: {type(e).__name__}: {e}", "report it, with this line")

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in checks.items()]
    for thread in threads:
        thread.start()
    end = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = trouble(f"no answer within {patience:.0f} s", "look at what it asks: a network file system, a server, a GPU")
    return {name: said.get(name, late) for name in checks}
