"""The two values in ids and labels that are not tokens. They are apart from batch.py because that imports torch."""

IMAGE = -200
"""The id at positions where an image token's embedding goes. No vocabulary has it, so text cannot produce it."""
IGNORE = -100
"""The label of positions without a loss."""
