"""Which process of a run this is, and where its processes meet: told by how they were started."""

import os
import re
import socket
import subprocess
from dataclasses import dataclass

from fcmae.core.errors import UserError


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Args:
        rank: number of this process, from 0
        size: number of processes
        local_rank: number of this process on its machine, from 0
        local_size: number of processes on its machine
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.size} on {socket.gethostname()}"


def find_world() -> World:
    """Tell from the environment how this process was started: by torchrun or submitit, by srun, or alone.

    torchrun sets RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE. srun sets SLURM_STEP_NUM_TASKS and more;
    a batch script or an salloc shell, which is no task of a step, has no such variable and is alone.

    Raises:
        UserError: the variables contradict each other
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    values = [os.environ.get(name) for name in names]
    if values[:2] == [None, None] and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
        values = [os.environ.get(name) for name in names]
    if values[:2] == [None, None]:
        return World()
    try:
        rank, size = int(values[0] or ""), int(values[1] or "")
        local_rank = int(values[2] or "0")
        local_size = int((values[3] or "1").split("(")[0].split(",")[0])  # SLURM writes 8(x2) or 8,4
    except ValueError:
        shown = ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
        raise UserError(f"{shown}: expected numbers, as torchrun and srun set them") from None
    if not 0 <= rank < size:
        raise UserError(f"{names[0]}={rank} is not below {names[1]}={size}")
    return World(rank, size, local_rank, local_size)


def first_host() -> str:
    """Return the machine of rank zero: the first of a SLURM step, or this one."""
    nodes = os.environ.get("SLURM_STEP_NODELIST")
    if nodes is None:
        return "127.0.0.1"
    listing = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
    )
    return listing.stdout.split()[0]


def port_of_step() -> int:
    """Return a port between 20000 and 60000 that two steps of a cluster hardly share."""
    job = int(re.sub(r"\D", "", os.environ.get("SLURM_JOB_ID", "")) or 0)
    step = int(re.sub(r"\D", "", os.environ.get("SLURM_STEP_ID", "")) or 0)
    return 20000 + (17 * job + step) % 40000
