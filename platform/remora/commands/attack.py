"""`remora attack`: a red team against a running endpoint, a verdict a row; serving/attack has the attacks.

remora attack http://127.0.0.1:8000 --only ssrf
"""

from __future__ import annotations

import dataclasses
import json

from remora.commands.endpoint_options import AttackOptions
from remora.commands.saying import say
from remora.errors import ServingError
from remora.serving.attack.run import ATTACK_S, RUN_S, AttackRow, run
from remora.serving.attack.wire import Attacked
from remora.serving.keys import is_loopback

LONGEST_S = 600.0
"""Of `--seconds`."""


def attack(options: AttackOptions) -> None:
    """Attack an endpoint and print a row an attack.

    Raises:
        ServingError: an attack has failed or was cut short; the endpoint is elsewhere and its host was not named
            again; it answers no ordinary question.
    """
    at = Attacked(options.url)
    if not is_loopback(at.host) and options.host != at.host:
        raise ServingError(
            f"{at.host} is not this machine; attack only what you operate; next: remora attack {options.url} "
            f"--host {at.host}"
        )
    if not 0 < options.seconds <= LONGEST_S:
        raise ServingError(f"--seconds is up to {LONGEST_S:g}; found {options.seconds:g}")
    rows = []
    for row in run(at, options.only, options.seconds, RUN_S * max(1, options.seconds / ATTACK_S)):
        rows.append(row)
        if not options.json:
            say(*shown(row))
    if options.json:
        say(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    failed = [row.name for row in rows if row.verdict == "FAILED"]
    cut = [row.name for row in rows if row.verdict == "cut"]
    problems = [f"{len(failed)} of {len(rows)} rows FAILED: {', '.join(failed)}"] if failed else []
    if cut:  # an endpoint has not withstood what was not sent
        longer = min(LONGEST_S, 5 * options.seconds)
        problems.append(
            f"{len(cut)} cut before all was sent: {', '.join(cut)}; next: remora attack {options.url} "
            f"--only {' '.join(cut)} --seconds {longer:g}"
        )
    if problems:
        raise ServingError("; ".join(problems))


def shown(row: AttackRow) -> list[str]:
    """A row as lines: the verdict first, then what is wrong."""
    told = " -> ".join(part for part in (row.sent, row.came) if part)
    return [f"{row.verdict:7}{row.name:13}{told}", *(f"{'':7}! {each}" for each in row.problems)]
