"""The embeddings of pictures that were encoded recently, known by content."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from remora.inference.recent import Recent
from remora.inference.requests import FittedPicture

if TYPE_CHECKING:
    from remora.inference.answerer import Answerer

PICTURE_BYTES = 128 << 20
"""Bytes for embeddings."""
PICTURES = 16
"""Pictures that go through the encoder at once; on a CPU its activations should fit the CPU cache."""


class EncodedPictures:
    """An Answerer's encoder behind a cache."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._kept: Recent[Tensor] = Recent(PICTURE_BYTES, lambda embeddings: embeddings.nbytes)

    def __contains__(self, picture: FittedPicture) -> bool:
        return picture.digest in self._kept

    def of(self, pictures: Sequence[FittedPicture]) -> dict[bytes, Tensor]:
        """Each picture's embeddings by its digest; those not encoded recently are encoded together."""
        distinct = {picture.digest: picture for picture in pictures}
        shown = {digest: found for digest in distinct if (found := self._kept.get(digest)) is not None}
        new = [picture for digest, picture in distinct.items() if digest not in shown]
        for picture, embeddings in zip(new, self._answerer.embeddings(new, PICTURES), strict=True):
            shown[picture.digest] = embeddings
            self._kept.put(picture.digest, embeddings)
        return shown
