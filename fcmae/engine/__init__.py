"""How a run goes on: the loop, its checkpoints, log and pictures. Knows no task and no images."""
