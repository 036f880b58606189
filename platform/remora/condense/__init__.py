"""Condensation: select a small, balanced part of a large dataset by embeddings, as for Bunny's coreset.

Source: arXiv 2402.11530, section on pre-training data. docs/condense.md says how its ambiguous sentences are
interpreted.
"""
