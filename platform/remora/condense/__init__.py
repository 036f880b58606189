"""Condensation: a small, balanced part of a large dataset, chosen by embeddings as Bunny's coreset was.

Source: arXiv 2402.11530, section on pre-training data. docs/condense.md says how its sentences were read where they are
open.
"""
