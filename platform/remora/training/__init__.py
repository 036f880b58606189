"""Train one stage: the loop, the engine that takes its steps, checkpoints and resume."""
