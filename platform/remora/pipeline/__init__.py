"""What the product does: train a variant, measure it, record it. Written against an `Executor`; no Ray here."""
