"""One row an attack: what was sent, what came back, and whether the endpoint answers as before."""

from __future__ import annotations

import inspect
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

from remora.errors import ServingError, nearest
from remora.serving.attack import attacks, storms
from remora.serving.attack.judge import Shot, problem
from remora.serving.attack.memory import resident
from remora.serving.attack.pictures import as_url, saved
from remora.serving.attack.wire import REQUEST_S, Attacked, Came, question
from remora.serving.keys import is_loopback

ATTACK_S = 12.0
"""Seconds of one attack."""
RUN_S = 70.0
"""Seconds in which attacks begin. If the endpoint hangs in the last one, its requests, the bystander's and the question
afterwards come on top: two minutes together."""
GROWTH = 256 * 2**20
"""Bytes by which the endpoint's memory may grow over all attacks: allocators keep some of what one picture took."""

Verdict = Literal["ok", "FAILED", "cut", "none"]
AttackFunction = Callable[[Attacked], Iterator[Shot]]

ATTACKS: dict[str, AttackFunction] = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        *(attacks.bombs, attacks.sizes, attacks.torn, attacks.animated, attacks.mime, attacks.svg, attacks.polyglots),
        *(attacks.base64, attacks.files, attacks.ssrf, attacks.json_bodies, attacks.texts, attacks.settings),
        *(attacks.media_types, attacks.lengths, attacks.headers, attacks.protocols, attacks.hosts, attacks.keys),
        *(attacks.paths, storms.slowloris, storms.disconnects, storms.crowds),
    )
}
STORMS = ("slowloris", "disconnects", "crowds")


@dataclass(frozen=True)
class AttackRow:
    """The verdict on one attack."""

    name: str
    about: str
    """What it imitates."""
    sent: str
    came: str
    verdict: Verdict
    """`cut`: its time was over before all was sent, so nothing is known of the rest. `none`: nothing here to attack."""
    problems: tuple[str, ...] = ()
    seconds: float = 0.0
    shots: tuple[Shot, ...] = ()


def chosen(names: Sequence[str]) -> list[str]:
    """The attacks of these names, or all.

    Raises:
        ServingError: an unknown name.
    """
    for name in names:
        if name not in ATTACKS:
            raise ServingError(f"no attack {name!r}{nearest(name, ATTACKS)}; attacks: {', '.join(ATTACKS)}")
    return [name for name in ATTACKS if name in names] if names else list(ATTACKS)


def run(
    at: Attacked, names: Sequence[str] = (), attack_s: float = ATTACK_S, run_s: float = RUN_S
) -> Iterator[AttackRow]:
    """The row of each attack when it has ended, and one of memory.

    Raises:
        ServingError: an unknown name, or the endpoint does not answer an ordinary question before anything is sent.
    """
    wanted = chosen(names)
    ordinary = Ordinary(at)
    before = resident(at.port) if is_loopback(at.host) else None
    end = time.monotonic() + run_s
    for name in wanted:
        yield _row(at, name, ordinary, min(end, time.monotonic() + attack_s))
    at.end = float("inf")
    yield _memory(at, before)


class Ordinary:
    """An ordinary question, and the answer to it before the attacks."""

    def __init__(self, at: Attacked) -> None:
        self.at = at
        picture = {"type": "image_url", "image_url": {"url": as_url(saved("PNG"))}}
        self.body = question([picture, "What is in the picture?"], max_tokens=8)
        came = at.post(self.body)
        self.answer = answer_of(came)
        if self.answer is None:
            hint = "; next: export REMORA_KEY=KEY" if came.status == 401 else ""
            raise ServingError(
                f"{at.url}: an ordinary question is not answered ({came.short}), so nothing was sent{hint}"
            )

    def asked(self) -> str | None:
        """Ask again: what is wrong with the answer; None if nothing is. Refusals that ask to retry are retried."""
        end = time.monotonic() + REQUEST_S
        while True:
            came = self.at.post(self.body)
            full = came.status in (429, 503) and "retry-after" in came.headers
            if not full or time.monotonic() > end:
                break
            time.sleep(0.5)
        if wrong := problem(came, "answered"):
            return wrong
        return None if answer_of(came) == self.answer else "its answer is another one than before"

    def after(self) -> str | None:
        """What is wrong with the endpoint after an attack."""
        if wrong := self.asked():
            return f"an ordinary question afterwards: {wrong}"
        came = self.at.ask("GET", "/healthz")
        return None if came.status == 200 else f"/healthz afterwards: {came.short}"


def answer_of(came: Came) -> str | None:
    """The text of a completion."""
    try:
        return str(json.loads(came.body)["choices"][0]["message"]["content"]) if came.status == 200 else None
    except (ValueError, LookupError, TypeError):
        return None


def _row(at: Attacked, name: str, ordinary: Ordinary, end: float) -> AttackRow:
    attack, began = ATTACKS[name], time.monotonic()
    about = " ".join((inspect.getdoc(attack) or "").split())
    if began >= end:
        return AttackRow(name, about, "nothing", "", "FAILED", (f"the run's time was over; next: --only {name}",))
    at.end = end
    shots: list[Shot] = []
    cut = False
    beside = storms.BystanderThread(ordinary.asked) if name in STORMS else None
    with beside or nullcontext():
        for shot in attack(at):
            shots.append(shot)
            if cut := time.monotonic() >= end:
                break
    at.end = float("inf")
    problems = [f"{shot.name}: {shot.problem}" for shot in shots if shot.problem]
    if beside is not None and beside.problem:
        problems.append(f"a bystander's question: {beside.problem}")
    if wrong := ordinary.after():
        problems.append(wrong)
    came = ", ".join(f"{many} x {what}" for what, many in sorted(Counter(shot.came for shot in shots).items()))
    if beside is not None:
        came += f"; bystander answered {beside.answered} x"
    verdict: Verdict = "FAILED" if problems else "cut" if cut else "ok" if shots else "none"
    sent = f"{len(shots)} ({_size(sum(shot.bytes for shot in shots))})" if shots else "nothing"
    return AttackRow(
        name, about, sent, came, verdict, tuple(problems), round(time.monotonic() - began, 2), tuple(shots)
    )


def _memory(at: Attacked, before: dict[int, int] | None) -> AttackRow:
    """By how much the endpoint's processes have grown, and whether all of them still live."""
    about = "Memory of the endpoint's processes, before and after."
    after = resident(at.port) if before else None
    if not before or not after:
        return AttackRow("memory", about, "", "not seen: its processes are elsewhere, or psutil is missing", "none")
    died = len(before.keys() - after.keys())
    grown = sum(after.values()) - sum(before.values())
    came = f"{_size(sum(before.values()))} before, {_size(sum(after.values()))} after, {len(after)} processes"
    problems = [f"it grew by {_size(grown)}, more than {_size(GROWTH)}"] if grown > GROWTH else []
    if died:
        problems.append(f"{died} of its processes are gone")
    return AttackRow("memory", about, "", came, "FAILED" if problems else "ok", tuple(problems))


def _size(many: int) -> str:
    return f"{many / 2**20:,.1f} MB" if many >= 2**20 else f"{many / 1024:,.1f} KB"
