"""Answers from a model, in batches; evaluation and serving both use this."""

from typing import TYPE_CHECKING, Any

from remora.inference.bundle import Bundle, read_bundle, write_bundle
from remora.inference.sampling import Sampling

if TYPE_CHECKING:
    from remora.inference.answerer import Answer, Answerer, Prompt, Turn

__all__ = ["Answer", "Answerer", "Bundle", "Prompt", "Sampling", "Turn", "read_bundle", "write_bundle"]


def __getattr__(name: str) -> Any:
    """The engine loads torch and transformers, 4 s on two cores that a command which only writes a bundle saves."""
    if name in ("Answer", "Answerer", "Prompt", "Turn"):
        from remora.inference import answerer

        return getattr(answerer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
