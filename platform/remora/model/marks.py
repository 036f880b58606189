"""The two numbers in ids and labels that stand for no token; apart, because who reads data needs no torch for them."""

IMAGE = -200
"""The id that stands where an image token's embedding goes. It is in no vocabulary, so no text can write it."""
IGNORE = -100
"""The label of a position without a loss."""
