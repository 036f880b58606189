"""Train a variant, measure it, record it. Written against an `Executor`; no Ray here."""
