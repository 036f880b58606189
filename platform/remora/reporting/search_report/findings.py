"""All that a report shows of a search, as plain data: what `--json` prints and the page draws."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from remora.reporting.search_report.ablation import Ablation, ablations
from remora.reporting.search_report.axes import Importances, Parallel, importances, parallel
from remora.reporting.search_report.beside import Beside, beside
from remora.reporting.search_report.curves import RungCurves, StageCurves, curves, rungs
from remora.reporting.search_report.graph import StageGraph, graph
from remora.reporting.search_report.leaderboard import Leaderboard, leaderboard
from remora.reporting.search_report.record import SearchRecord, read_search
from remora.reporting.search_report.timeline import Timeline, timeline
from remora.reporting.search_report.tradeoffs import Tradeoff, tradeoffs
from remora.reporting.search_report.use import ChampionUse, champion_use


@dataclass(frozen=True)
class Findings:
    """One field a section of the page."""

    record: SearchRecord
    leaderboard: Leaderboard
    ablations: tuple[Ablation, ...]
    tradeoffs: tuple[Tradeoff, ...]
    curves: tuple[StageCurves, ...]
    rungs: tuple[RungCurves, ...]
    parallel: Parallel | None
    importances: Importances
    graph: StageGraph | None
    timeline: Timeline | None
    beside: tuple[Beside, ...]
    use: ChampionUse | None

    def as_json(self) -> dict[str, Any]:
        found = {k: v for k, v in vars(self).items() if k not in ("record", "curves")}
        return {"search": self.record.name, "result": dict(self.record.result)} | {
            k: _plain(v) for k, v in found.items()
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return asdict(value) if value is not None else None


def findings(runs: Path, search: str) -> Findings:
    """Raises:
    StoreError: no such search, or a file of it cannot be read.
    """
    record = read_search(runs, search)
    board = leaderboard(record)
    return Findings(
        record,
        board,
        ablations(record),
        tradeoffs(record),
        curves(record, board),
        rungs(record, board),
        parallel(record),
        importances(record),
        graph(record),
        timeline(record),
        beside(record),
        champion_use(record, board),
    )
