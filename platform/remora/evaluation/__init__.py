"""Benchmarks: questions, answers, baselines, scores and their intervals."""

from remora.evaluation.benchmark import Item, Score, as_json, examine, summarise

__all__ = ["Item", "Score", "as_json", "examine", "summarise"]
