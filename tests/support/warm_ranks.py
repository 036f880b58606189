"""Imports shared by ranks: `launch` forks them from a process that has only imported this."""

from remora.training import stage
from remora.training.engines import hooks

__all__ = ["stage"]
hooks.deepspeed()
