"""Benchmarks: questions, answers, scores by the published rules, intervals, baselines. No torch here, except in the
model passed to `ask`."""
