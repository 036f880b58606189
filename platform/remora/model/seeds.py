"""Random streams: from the user's one seed, a separate stream for each purpose."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose, so that all random streams of a run differ."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]) >> 1
