"""Remora: compose, train, search, measure and serve small multimodal models on Ray.

Rooms and who may import whom are drawn in docs/concepts.md; `remora --help` lists what a person can do.
This module imports nothing, so that `import remora` and `remora --help` stay instant.
"""

__version__ = "0.1.0"
