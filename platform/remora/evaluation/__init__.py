"""Benchmarks: questions, answers, scores by the published rules, their intervals, baselines. No torch in here but in
the model that `ask` is given."""
