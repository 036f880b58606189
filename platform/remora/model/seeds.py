"""Random streams: one seed of the user's, one stream a purpose."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose, so that no two random streams of a run are the same."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]) >> 1
