"""How many seeded cases a fuzz test runs: a few thousand in `make test`, REMORA_FUZZ_CASES (`make fuzz`) otherwise."""

from __future__ import annotations

import os


def cases(default: int) -> int:
    """The number of cases: `default` (for `make test`, seconds at most) unless REMORA_FUZZ_CASES asks for another."""
    return int(os.environ.get("REMORA_FUZZ_CASES", default))
