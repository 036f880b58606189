"""From conversations and pictures to batches: sources, prompts and masks, order, mixtures."""
