"""What ranks find imported: `launch` forks them from a process that has loaded this and done nothing else."""

from remora.training import stage
from remora.training.engines import hooks

__all__ = ["stage"]
hooks.deepspeed()
