"""What ranks find imported: `launch` forks them from a process that has loaded this and done nothing else."""

from remora.training import stage
from remora.training.engine import _deepspeed

__all__ = ["stage"]
_deepspeed()
