"""Where exceptions end: any error of a command becomes one line, and its trace goes to a file or the terminal.

    remora: the rule that was broken, the value; the next command
    remora: unexpected TypeError: …; this is a fault of Remora (trace: ~/remora/logs/error-20261129-….log)

`--debug` (or REMORA_DEBUG=1) prints every trace. A child of another Remora process also passes the error itself to it.
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
    """Print an error as one line and return the exit code 1."""
    if os.environ.get(DEBUG, "") not in ("", "0"):
        traceback.print_exception(error, file=sys.stderr)
    found = ours(error, runs / "logs", " ".join(["remora", *argv]))
    line = "\n".join(f"remora: {line}" for line in str(found).splitlines() or [type(found).__name__])
    return f"{line}\n{pack(found)}" if MARK in os.environ else line
