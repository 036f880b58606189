"""What a search's models may be used for: the champion, and the best one whose commercial use nothing forbids."""

from __future__ import annotations

from dataclasses import dataclass

from remora.errors import RemoraError
from remora.pipeline.search import space_file
from remora.pipeline.search.driver import folder_of
from remora.reporting.search_report.leaderboard import Leaderboard
from remora.reporting.search_report.record import SearchRecord
from remora.runs import checked_stages
from remora.runs.licences import Permission, best_allowed, permission


@dataclass(frozen=True)
class ChampionUse:
    """By the catalog's facts; no legal advice."""

    variant: str
    permission: Permission
    best_allowed: str | None
    """The best measured variant without the restriction, if the champion has one; None if there is none."""

    @property
    def said(self) -> str:
        """In a sentence or two."""
        found = self.permission
        lines = [f"{self.variant}: {found.words} (the catalog's facts, no legal advice)."]
        for what, of in (("It is forbidden by", found.forbids), ("Not known:", found.open)):
            if of:
                lines.append(f"{what} {'; '.join(of)}.")
        if not found.commercial:
            lines.append(f"The best measured variant without that: {self.best_allowed or 'none'}.")
        return " ".join(lines)


def champion_use(record: SearchRecord, board: Leaderboard) -> ChampionUse | None:
    """None while there is no champion, or where a file or a catalog entry is missing that would say it."""
    try:
        found = space_file.read(folder_of(record.runs, record.name))
        if found is None or board.champion not in found.variants:
            return None
        uses = {
            line.variant.name: permission(v, checked_stages(v))
            for line in board.lines
            if line.place and (v := found.variants.get(line.variant.name))
        }
    except RemoraError:
        return None
    if board.champion not in uses:
        return None
    return ChampionUse(board.champion, uses[board.champion], best_allowed(uses.items()))
