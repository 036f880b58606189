"""Versions of rules, raised by hand: what is kept under an older one is made again and never taken for the new.

tests/test_versions.py has a seeded result of each and fails when one moves without a raise.
"""

from __future__ import annotations

NUMERICS = 2
"""Of training: raise it when a change makes the same spec give other weights. Part of every stage run's identity."""
INDEX = 7
"""Of indexes: raise it when they are written, or records are read, differently. Older ones are rebuilt."""
LENGTHS = 1
"""Of tables of lengths: raise it when conversations are rendered or measured differently. They are measured again."""
CONDENSING = 1
"""Of condensation: raise it when the same embeddings and parameters keep other rows."""
DEMO = 2
"""Of the demo's data: raise it when the same seed gives other data. Folders of another version are rebuilt."""
PHOTOS = 1
"""Of the photo demo's data, likewise."""
STYLES = 1
"""Of the demo's questions about other drawings, likewise."""
ASKING = 3
"""Of answers: raise it when the same model answers the same question differently. Questions are asked again."""
SPEED = 1
"""Of the speed of answers: raise it when it is measured in another way. It is measured again; no result is seeded."""
