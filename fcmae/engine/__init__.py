"""How a run goes on: the loop, its checkpoints, log and curves. Knows no task and no images."""
