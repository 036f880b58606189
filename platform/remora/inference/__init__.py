"""Answers from a model, in batches; evaluation and serving both use this."""

from remora.inference.answerer import Answer, Answerer, Turn
from remora.inference.bundle import Bundle, read_bundle, write_bundle

__all__ = ["Answer", "Answerer", "Bundle", "Turn", "read_bundle", "write_bundle"]
