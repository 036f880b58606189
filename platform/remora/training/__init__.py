"""One stage: the loop, the engine that takes its steps, checkpoints, resume."""
