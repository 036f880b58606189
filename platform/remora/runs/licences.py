"""What a model may be used for: the licences of its parts and of the data of all its stages, joined.

What a part or a dataset forbids, the model forbids, however little of it is left: that is the careful reading. The
facts are the catalog's (catalog/licences.yaml); it knows nothing of your own data. No legal advice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from remora import catalog
from remora.catalog import LicenceLine
from remora.errors import UnknownName
from remora.spec import Stage, Variant

Use = Literal["free", "conditions", "open", "ask", "no"]
"""Commercial use, from the widest to the narrowest; open: something's licence is not known."""
ORDER: Final[tuple[Use, ...]] = ("free", "conditions", "open", "ask", "no")
WORDS: dict[Use, str] = {
    "free": "commercial use is allowed; notices are passed on",
    "conditions": "commercial use is allowed under conditions",
    "open": "whether commercial use is allowed is open, since the catalog does not know all licences",
    "ask": "commercial use has to be asked for",
    "no": "research only: commercial use is forbidden",
}
PLAIN = {"pass on the licence and its notices", "name the authors"}
"""Conditions that every user of free software meets: they are listed, but narrow no use."""


@dataclass(frozen=True)
class LicensedPart:
    """A part or a dataset that a model is made of, with its licences."""

    what: str
    """`llm phi-2`, `data llava-mix-665k`."""
    licences: tuple[str, ...]
    """Empty where none is known."""
    covers: str = ""
    open: str = ""
    """Of what no licence is known."""

    @property
    def shown(self) -> str:
        return f"{self.what} ({', '.join(self.licences) or 'no licence known'})"


@dataclass(frozen=True)
class Permission:
    """What a model may be used for. Each line names what it is made of that says so."""

    use: Use
    of: tuple[LicensedPart, ...]
    forbids: tuple[str, ...] = ()
    """Why commercial use is forbidden, or has to be asked for."""
    conditions: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    """What no licence is known of."""
    share_alike: tuple[str, ...] = ()
    """What asks that adaptations are under the same licence."""

    @property
    def words(self) -> str:
        return WORDS[self.use]

    @property
    def commercial(self) -> bool:
        """Whether nothing that is known forbids commercial use, or makes you ask."""
        return self.use not in ("ask", "no")


def permission(variant: Variant, stages: Sequence[Stage]) -> Permission:
    """Of a variant by its resolved stages; reads the catalog alone.

    Raises:
        UnknownName: a part or dataset is not in the catalog.
    """
    entries = [e for stage in stages for e in stage.mixture]
    data, own = [e.dataset for e in entries if e.dataset], [e.label for e in entries if not e.dataset]
    return permission_of({"vision": variant.vision, "llm": variant.llm}, data, own)


def permission_of(parts: Mapping[str, str], data: Iterable[str], own: Iterable[str] = ()) -> Permission:
    """Of parts and datasets by their names in the catalog (a connector has no licence of its own), and of `own`
    datasets, of which it knows nothing.

    Raises:
        UnknownName: a part or dataset is not in the catalog.
    """
    made_of = []
    for part, name in parts.items():
        if part in ("vision", "llm"):
            entry = catalog.vision(name) if part == "vision" else catalog.llm(name)
            made_of.append(_licensed(f"{part} {name}", entry.licence))
    made_of += [_licensed(f"data {name}", catalog.dataset(name).licence) for name in dict.fromkeys(data)]
    yours = "your own data: its terms are yours to know"
    made_of += [LicensedPart(f"data {name}", (), open=yours) for name in dict.fromkeys(own)]
    return _joined(tuple(made_of))


def with_open(found: Permission, what: str) -> Permission:
    """The permission of a model of which something more is not known."""
    use: Use = max(found.use, "open", key=ORDER.index)
    return replace(found, use=use, open=(*found.open, what))


def best_allowed(ranked: Iterable[tuple[str, Permission]]) -> str | None:
    """Of variants, the best first, the first one whose commercial use nothing forbids."""
    return next((name for name, found in ranked if found.commercial), None)


def _licensed(what: str, line: str | None) -> LicensedPart:
    said = LicenceLine.of(line)
    return LicensedPart(what, said.names, said.covers, said.open)


def _joined(made_of: tuple[LicensedPart, ...]) -> Permission:
    forbids, conditions, open_, alike = [], [], [], []
    uses: list[Use] = ["free"]
    for each in made_of:
        if each.open or not each.licences:
            uses.append("open")
            open_.append(f"{each.what}: {each.open or 'no licence known'}")
        for name in each.licences:
            try:
                licence = catalog.licence(name)
            except UnknownName:
                uses.append("open")
                open_.append(f"{each.what}: the catalog does not know {name!r}")
                continue
            if licence.commercial in ("no", "ask"):
                uses.append("no" if licence.commercial == "no" else "ask")
                forbids.append(f"{each.what}: {name}")
            narrows = licence.commercial == "conditions" or licence.share_alike
            uses += ["conditions"] if narrows else []
            conditions += [f"{c} ({each.what}: {name})" for c in licence.conditions if c not in PLAIN]
            alike += [f"{each.what}: {name}"] if licence.share_alike else []
    narrowest = max(uses, key=ORDER.index)
    return Permission(
        narrowest, made_of, *(tuple(dict.fromkeys(lines)) for lines in (forbids, conditions, open_, alike))
    )
