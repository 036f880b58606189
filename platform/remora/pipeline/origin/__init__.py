"""Where a model comes from, read from the run folder: parts, stages, data, figures, and the decisions that chose it.

No torch, no Ray; MLflow only where a registered name is asked for.
"""
