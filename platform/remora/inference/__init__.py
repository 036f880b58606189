"""Answers from a model, in batches, for evaluation and serving.

answerer = Answerer.load(bundle)
answers = answerer.answer([Request([Message("user", "What is this?", (picture,))], max_new_tokens=16)])
"""

from typing import TYPE_CHECKING, Any

from remora.inference.bundle import Bundle, read_bundle, write_bundle
from remora.inference.requests import Answer, Event, FittedPicture, Logprobs, Message, Prompt, Request, Stats

if TYPE_CHECKING:
    from remora.inference.answerer import Answerer
    from remora.inference.engine import AnswerEngine

__all__ = [
    "Answer",
    "AnswerEngine",
    "Answerer",
    "Bundle",
    "Event",
    "FittedPicture",
    "Logprobs",
    "Message",
    "Prompt",
    "Request",
    "Stats",
    "read_bundle",
    "write_bundle",
]


def __getattr__(name: str) -> Any:
    """Load the engine on demand: its torch and transformers cost 4 s on two cores, which writing a bundle saves."""
    if name == "Answerer":
        from remora.inference.answerer import Answerer

        return Answerer
    if name == "AnswerEngine":
        from remora.inference.engine import AnswerEngine

        return AnswerEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
