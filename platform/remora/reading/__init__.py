"""Convert conversations to model inputs: tokens, labels, pixels and batches."""
