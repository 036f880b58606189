"""Why this model: the search that chose it, at which rungs and by which test; and who gave it which alias."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from remora.errors import RemoraError
from remora.evaluation.choice import RankedRecord
from remora.pipeline.origin.differences import SettingDifference, setting_differences
from remora.pipeline.origin.model import ModelOrigin
from remora.pipeline.origin.stages import stages_of
from remora.pipeline.promotion import Promotion, history
from remora.pipeline.search import space_file
from remora.pipeline.search.board import RUNGS, Reached, Rungs
from remora.pipeline.search.driver import folder_of
from remora.pipeline.search.records import ResultRecord, VariantRecord
from remora.pipeline.search.search import result_file
from remora.runs import checked_stages
from remora.runs.licences import best_allowed, permission


@dataclass(frozen=True)
class RungPassed:
    """What became of the model's last stage run at a rung."""

    share: float
    """Of the last stage's steps."""
    figure: str
    value: float
    place: int
    among: int
    decision: str
    """The last one taken there: promote, go on, pause or stop."""
    rule: str


@dataclass(frozen=True)
class SearchDecision:
    """What a search made of the model."""

    search: str
    ended: float
    """Seconds since 1970."""
    champion: str
    is_champion: bool
    benchmark: str
    metric: str
    n: int
    prefer: str
    """best, or the cheapest of those that cannot be told from the best."""
    alpha: float
    expected_drop: float
    equals: tuple[str, ...]
    """Those that cannot be told from the best one."""
    measured: int
    """Variants that were trained to their end."""
    stopped: int
    """Those that were left at a rung."""
    ranking: tuple[RankedRecord, ...]
    rungs: tuple[RungPassed, ...]
    beside: str | None
    """Whom it is held against: the runner-up of a champion, the champion of another."""
    differs: tuple[SettingDifference, ...]
    """From that one."""
    refused: str
    """Why the search did not move the alias, if it did not."""
    best_allowed: str | None
    """The best variant whose commercial use nothing forbids, if this one's is forbidden."""


def promotions_of(origin: ModelOrigin, runs: Path) -> tuple[Promotion, ...]:
    """The promotions that moved an alias to the model, the oldest first. Old lines of the history have no weights and
    are matched by the variant's name."""
    return tuple(
        made
        for made in history(runs)
        if made.moved and (made.weights == origin.weights if made.weights else made.variant == origin.name)
    )


def decision_of(origin: ModelOrigin, runs: Path) -> SearchDecision | None:
    """The last search that measured the model; before others one that chose it."""
    if not origin.stages:
        return None
    last = origin.stages[-1].name
    found = []
    for file in sorted((runs / "searches").glob("*.json")):
        result = _result(file)
        if result and any(v["name"] == origin.name and last in v["stages"] for v in result["variants"]):
            found.append((result["champion"] == origin.name, result["ended"], result))
    if not found:
        return None
    _, _, result = max(found, key=lambda each: each[:2])
    return _decision(result, origin, runs)


def _decision(result: ResultRecord, origin: ModelOrigin, runs: Path) -> SearchDecision:
    choice, name = result["choice"], result["search"]
    champion = result["champion"] == origin.name
    others = [row["name"] for row in choice["variants"] if row["name"] != origin.name]
    beside = (others[0] if champion else result["champion"]) if others else None
    return SearchDecision(
        search=name,
        ended=result["ended"],
        champion=result["champion"],
        is_champion=champion,
        benchmark=choice["benchmark"],
        metric=choice["metric"],
        n=choice["n"],
        prefer=choice["prefer"],
        alpha=choice["alpha"],
        expected_drop=choice["expected_drop"],
        equals=tuple(choice["equals"]),
        measured=len(result["variants"]),
        stopped=len(result["others"]),
        ranking=tuple(choice["variants"]),
        rungs=_rungs(folder_of(runs, name) / RUNGS, origin.stages[-1].name),
        beside=beside,
        differs=_differs(result["variants"], beside, origin, runs, name) if beside else (),
        refused=result["refused"],
        best_allowed=None if origin.permission.commercial else _best_allowed(result, runs),
    )


def _rungs(file: Path, run: str) -> tuple[RungPassed, ...]:
    """The rungs that a stage run came to, in order, each with the last decision there."""
    try:
        board = Rungs.read(file)
    except RemoraError:
        return ()
    reached: dict[float, Reached] = {at.share: at for at in board.arrivals if at.run == run}
    decided = {d.share: d for d in board.decided if d.run == run}
    return tuple(
        RungPassed(share, at.figure, at.value, made.place, made.among, made.decision, made.rule)
        for share, at in sorted(reached.items())
        if (made := decided.get(share))
    )


def _differs(
    variants: Sequence[VariantRecord], beside: str, origin: ModelOrigin, runs: Path, search: str
) -> tuple[SettingDifference, ...]:
    other = next((list(v["stages"]) for v in variants if v["name"] == beside), [])
    stages, _ = stages_of(runs, other)
    return setting_differences((origin.variant, _written(runs, search, beside)), (origin.stages, stages))


def _written(runs: Path, search: str, name: str) -> Mapping[str, object]:
    """A variant of a search as it was written."""
    try:
        found = space_file.read(folder_of(runs, search))
    except RemoraError:
        found = None
    return found.variants[name].model_dump(mode="json") if found and name in found.variants else {}


def _best_allowed(result: ResultRecord, runs: Path) -> str | None:
    try:
        found = space_file.read(folder_of(runs, result["search"]))
        known = found.variants if found else {}
        ranked = [row["name"] for row in result["choice"]["variants"] if row["name"] in known]
        return best_allowed((name, permission(known[name], checked_stages(known[name]))) for name in ranked)
    except RemoraError:  # a catalog of one's own that is not here
        return None


def _result(file: Path) -> ResultRecord | None:
    """A search's result; None of one that cannot be read, or is from before a choice was recorded."""
    try:
        found: ResultRecord = json.loads(file.read_text())
        whole = isinstance(found, dict) and ResultRecord.__required_keys__ <= found.keys()
        return found if whole and result_file(file.parents[1], found["search"]) == file else None
    except (OSError, ValueError):
        return None
