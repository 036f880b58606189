"""The order of samples: a pure function of (seed, position) without state, so any rank can compute any position.

A keyed permutation of [0, n) is a Feistel network on the smallest even number of bits that holds n, applied until the
result is below n ("cycle walking"; Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence

from remora.errors import DataError, SpecError
from remora.spec import MixtureEntry, Stage

ROUNDS = 6
MOST_SAMPLES = 1 << 40
"""Maximum samples of a stage: the range of sample keys, and more than anybody trains on."""


class Permutation:
    """A bijection of [0, n), chosen by `key`."""

    def __init__(self, n: int, key: str) -> None:
        if n < 1:
            raise ValueError(f"a permutation needs at least one element, got {n}")
        self.n = n
        self._half = max(1, math.ceil((n - 1).bit_length() / 2))
        self._keys = [
            int.from_bytes(hashlib.blake2b(f"{key}/{r}".encode(), digest_size=8).digest()) for r in range(ROUNDS)
        ]

    def __getitem__(self, i: int) -> int:
        if not 0 <= i < self.n:
            raise IndexError(i)
        while True:  # at most 4 rounds on average: the domain is smaller than 4 n
            i = self._mix(i)
            if i < self.n:
                return i

    def _mix(self, value: int) -> int:
        mask = (1 << self._half) - 1
        left, right = value >> self._half, value & mask
        for key in self._keys:
            # splitmix64's finaliser: cheap, and every input bit reaches every output bit
            z = (right + key) & 0xFFFFFFFFFFFFFFFF
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
            left, right = right, left ^ ((z ^ (z >> 31)) & mask)
        return (left << self._half) | right


class MixtureOrder:
    """The order in which a stage reads its datasets.

    `sizes` are the datasets' lengths, `weights` how often an epoch reads each sample, `caps` the maximum reads of a
    dataset per epoch. A weight of 2.5 reads every sample twice and a seeded half of them once more. Position p is in
    epoch p // n.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], seed: int, caps: Sequence[int | None] | None = None
    ) -> None:
        self.seed = seed
        self.sizes = list(sizes)
        self.reads = [
            min(max(1, round(size * weight)), cap or sys.maxsize)
            for size, weight, cap in zip(sizes, weights, caps or [None] * len(self.sizes), strict=True)
        ]
        self.epoch_size = sum(self.reads)
        self._epoch: tuple[int, Permutation] | None = None

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(dataset, sample) at any position >= 0."""
        epoch, i = divmod(position, self.epoch_size)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, Permutation(self.epoch_size, f"{self.seed}/epoch/{epoch}"))
        read = self._epoch[1][i]
        for dataset, reads in enumerate(self.reads):
            if read < reads:
                whole, rest = divmod(read, self.sizes[dataset])
                # Each pass over the dataset has its own order; a partial pass is thus a seeded subset.
                order = Permutation(self.sizes[dataset], f"{self.seed}/dataset/{dataset}/{whole}")
                return dataset, order[rest]
            read -= reads
        raise AssertionError("unreachable: read is below the sum of reads")


def mixture_order(mixture: Sequence[MixtureEntry], sizes: Sequence[int], seed: int) -> MixtureOrder:
    """The order of a stage's mixture, whose datasets have `sizes` samples.

    Raises:
        DataError: a dataset is empty.
    """
    for entry, size in zip(mixture, sizes, strict=True):
        if not size:
            raise DataError(
                f"{entry.dataset or entry.path}: no sample is left to read: all of its records are skipped; fix the "
                "dataset, or take the entry out of the mixture"
            )
    return MixtureOrder(sizes, [e.weight for e in mixture], seed, [e.cap for e in mixture])


def stage_length(stage: Stage, epoch: int) -> tuple[int, int]:
    """(steps, samples) of a stage whose mixture has `epoch` samples per epoch.

    Raises:
        SpecError: it would read no sample, or more than the maximum.
    """
    samples = stage.steps * stage.batch if stage.steps else round(epoch * (stage.epochs or 1))
    if not samples:
        raise SpecError(
            f"stage {stage.name!r} has no step: epochs {stage.epochs:g} of {epoch:,} samples are less than half a "
            f"sample; raise epochs, or set steps"
        )
    if samples >= MOST_SAMPLES:
        raise SpecError(f"stage {stage.name!r} would read {samples:.2g} samples; lower its epochs, steps or weights")
    return math.ceil(samples / stage.batch), samples
