"""Comparisons as a canary might see them, drawn by a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from remora.serving.canary.observed import Comparison, Observation


@dataclass(frozen=True)
class Version:
    """How a version answers: rates, and what its times are multiplied by."""

    errors: float = 0.0
    empty: float = 0.0
    cut: float = 0.2
    first: float = 1.0
    token: float = 1.0


GOOD = Version()


def drawn(count: int, candidate: Version, seed: int = 0, stable: Version = GOOD) -> list[Comparison]:
    """So many requests. Both versions' times share each request's size, and each has noise of its own."""
    rng = np.random.default_rng(seed)
    size = rng.lognormal(-3, 0.7, count)  # about 50 ms
    sides = []
    for version in (stable, candidate):
        fails = rng.random(count) < version.errors
        empty = rng.random(count) < version.empty
        cut = rng.random(count) < version.cut
        first = size * rng.lognormal(0, 0.3, count) * version.first
        token = size / 5 * rng.lognormal(0, 0.2, count) * version.token
        sides.append(
            [
                Observation(error="RuntimeError")
                if fails[i]
                else Observation(
                    None,
                    bool(empty[i]),
                    1 if empty[i] else 20,
                    "length" if cut[i] else "stop",
                    float(first[i]),
                    None if empty[i] else float(token[i]),
                )
                for i in range(count)
            ]
        )
    return [Comparison(str(i), "stable", s, c, False, 0.5) for i, (s, c) in enumerate(zip(*sides, strict=True))]


def failing(comparison: Comparison) -> Comparison:
    return replace(comparison, candidate=Observation(error="RuntimeError"))
