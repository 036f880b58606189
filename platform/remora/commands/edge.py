"""Where exceptions end: whatever is raised in a command becomes one line, and the trace goes where it is asked for.

    remora: the rule that was broken, the value; the next command
    remora: unexpected TypeError: …; this is a fault of Remora (trace: ~/remora/logs/error-20261129-….log)

`--debug` (or REMORA_DEBUG=1) prints every trace. A command that another Remora started hands it the error itself, too.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from remora.carrier import ours, pack
from remora.processes import MARK

DEBUG = "REMORA_DEBUG"


def told(error: BaseException, argv: list[str], runs: Path) -> str:
    """What `remora` prints of an error before it exits with 1."""
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    found = ours(error, runs / "logs", " ".join(["remora", *argv]))
    line = "\n".join(f"remora: {line}" for line in str(found).splitlines() or [type(found).__name__])
    return f"{line}\n{pack(found)}" if MARK in os.environ else line
