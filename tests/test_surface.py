"""What users write, held by a golden file: verbs and flags, names of the Python API, keys of every YAML.

A change of it is meant, or an accident. If it is meant, tell of it in CHANGELOG.md and write the file again:

    python tests/test_surface.py
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "platform"), str(ROOT / "docs" / "hooks")]

import surface  # noqa: E402 (found by the lines above)

from remora.cli import verbs  # noqa: E402

GOLDEN = Path(__file__).with_name("golden") / "surface.txt"


def lines() -> Iterator[str]:
    """The surface, a name a line, so that a difference says what changed."""
    for words, verb in verbs():
        yield f"remora {words}"
        yield from (f"    {flag.written}" for flag in surface.flags(verb))
    yield "python"
    yield from (f"    remora.{name}{signature}" for name, signature in surface.functions().items())
    for name, members in surface.classes().items():
        yield f"python {name}"
        yield from (f"    {member}" for member in members)
    told = set()
    for page in surface.YAMLS.values():
        for where, first in page.models.items():
            yield f"yaml {where}: {first.__name__}"
            for model in surface.models(first):
                if model not in told:
                    told.add(model)
                    yield f"    {model.__name__}"
                    yield from (f"        {key.name}: {key.type} = {key.default}" for key in surface.keys(model))


def test_the_surface_changes_on_purpose_only() -> None:
    now = list(lines())
    held = GOLDEN.read_text().splitlines()
    changed = "\n".join(difflib.unified_diff(held, now, "golden/surface.txt", "now", n=1, lineterm=""))
    assert not changed, (
        f"{changed}\n\nmeant? tell of it in CHANGELOG.md, then: python {Path(__file__).relative_to(ROOT)}"
    )


def test_every_flag_and_every_key_says_what_it_is() -> None:
    silent = [
        f"remora {words}: {flag.written}" for words, verb in verbs() for flag in surface.flags(verb) if not flag.meaning
    ]
    for page in surface.YAMLS.values():
        for first in page.models.values():
            for model in surface.models(first):
                silent += [f"{model.__name__}.{key.name}" for key in surface.keys(model) if not key.meaning]
    assert not silent, silent


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(lines()) + "\n")
