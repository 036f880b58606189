"""What a licence lets you do, and the line by which a catalog entry names its licences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from remora.spec import Spec

Commercial = Literal["yes", "conditions", "ask", "no", "unknown"]
_LINE = re.compile(r"(?P<names>[^(]+?)\s*(?:\((?P<covers>[^;)]*)(?:;\s*(?P<open>.*))?\))?")
OTHER = "other"
"""What a hub writes where it has no word for a licence."""


class Licence(Spec):
    """A licence, as far as a choice of parts needs it."""

    spdx: str | None = None
    """Its identifier in SPDX's list, if it is there."""
    commercial: Literal["yes", "conditions", "ask", "no"]
    """Whether a product may be made with what it covers: yes, within its conditions, after asking, or no."""
    share_alike: bool = False
    """Whether what is made of it must be under the same licence."""
    conditions: tuple[str, ...] = ()
    url: str
    source: str


@dataclass(frozen=True)
class LicenceLine:
    """What an entry's `licence` says: `NAME[, and NAME] (what it covers, or who says so[; what it leaves open])`."""

    names: tuple[str, ...]
    covers: str = ""
    open: str = ""
    """Of what the licence is not known: `each picture set has its own`."""

    @classmethod
    def of(cls, text: str | None) -> LicenceLine:
        """Parse a catalog entry's licence; an empty or missing one has no names."""
        found = _LINE.fullmatch((text or "").strip())
        if not found:
            return cls(((text or "").strip(),) if text else ())
        names = tuple(n for n in found["names"].split(", and ") if n != OTHER)
        return cls(names, found["covers"] or "", found["open"] or "")
