"""From conversations to what a step and a prompt are made of: tokens, labels, pixels, batches."""
