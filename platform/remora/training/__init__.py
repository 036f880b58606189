"""One stage: the loop, the DeepSpeed engine, checkpoints, resume."""
