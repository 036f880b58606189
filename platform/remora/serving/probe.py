"""The question that a version is asked before it takes requests."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing

from remora.errors import ServingError
from remora.serving.champion import ModelFacts
from remora.serving.engines.protocol import ServingEngine, VersionedRequest

PROBE_TOKENS = 8
PROBE_S = 60.0
"""Timeout of a probe's answer."""


async def probe(engine: ServingEngine, facts: ModelFacts) -> str:
    """A model's answer to a question about a picture.

    Raises:
        ServingError: it gives none in time, or one whose log probabilities are no numbers.
    """
    try:
        async with asyncio.timeout(PROBE_S):
            text, certain = await _answer(engine, facts)
    except TimeoutError:
        raise ServingError(f"it does not answer a probe within {PROBE_S:.0f} s") from None
    if not certain:
        raise ServingError("it answers a probe with log probabilities that are no numbers")
    return text


async def _answer(engine: ServingEngine, facts: ModelFacts) -> tuple[str, bool]:
    """The answer's text, and whether its log probabilities are numbers."""
    from PIL import Image

    from remora.inference import FittedPicture, Message

    picture = FittedPicture(facts.fitted(Image.linear_gradient("L").convert("RGB")))
    turns = (Message("user", "What is in the picture?", (picture,)),)
    request = VersionedRequest(turns, PROBE_TOKENS, top_logprobs=0, version=facts.version)
    text, numbers = "", list[float]()
    async with aclosing(engine.submit(request)) as deltas:
        async for delta in deltas:
            text += delta.text
            numbers += [one.token.logprob for one in delta.logprobs]
    return text.strip(), all(map(math.isfinite, numbers))
