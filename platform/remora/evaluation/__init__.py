"""Benchmarks: questions, answers, scores by the published rules, their intervals, baselines. No torch in here but in
`benchmark`, which asks a model."""
