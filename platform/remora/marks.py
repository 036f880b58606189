"""The two numbers in ids and labels that are no token. They stand apart from batch.py, which imports torch."""

IMAGE = -200
"""The id that stands where an image token's embedding goes. It is in no vocabulary, so no text can write it."""
IGNORE = -100
"""The label of a position without a loss."""
