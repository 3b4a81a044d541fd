"""Which process of a run this one is."""

import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Args:
        rank: number of this process, from 0
        size: number of processes
        local_rank: number of this process on its machine, from 0
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


def current_world() -> World:
    """The process group that torch.distributed was initialised with; a world of one without."""
    if "torch" not in sys.modules:  # then nothing can be initialised, and importing it takes seconds
        return World()
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return World()
    return World(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
