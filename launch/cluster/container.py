"""How a job's Python is started on SLURM: as it is, or in a container."""

import sys
from pathlib import Path

from fcmae.launch.cluster.job import Submission

# Docker hands over no variables by itself, and would see all GPUs of a machine, not the job's alone.
DOCKER = """
handed=(); for name in $(compgen -e | grep -E "^(SLURM|SUBMITIT|MASTER|PYTHON|FCMAE|NCCL|GLOO|TORCH|OMP|HF)")
do handed+=(--env "$name"); done
exec docker run --rm --init --network host --ipc host --user "$(id -u):$(id -g)" "${handed[@]}" "$@"
"""
GPUS = '--gpus "\\"device=$CUDA_VISIBLE_DEVICES\\"" "$@"'


def python_argv(submission: Submission) -> list[str]:
    """Return the words that start Python in each process."""
    asked = submission.options
    python = asked.python or ("python3" if asked.container else sys.executable)
    if asked.container is None or asked.container_runtime == "pyxis":
        return [python]
    if asked.container_runtime == "apptainer":
        gpus = ["--nv"] if asked.gpus_per_node else []
        binds = [f"--bind={mount}" for mount in mounts(submission)]
        return ["apptainer", "exec", *gpus, *binds, asked.container, python]
    volumes = [f"--volume={mount}" for mount in mounts(submission)]
    start = DOCKER.replace('"$@"', GPUS) if asked.gpus_per_node else DOCKER
    return ["bash", "-c", start, "docker", *volumes, f"--workdir={Path.cwd()}", asked.container, python]


def srun_options(submission: Submission) -> list[str]:
    """Return the options of srun by which pyxis starts the processes in a container."""
    asked = submission.options
    if asked.container is None or asked.container_runtime != "pyxis":
        return []
    return [
        f"--container-image={asked.container}",
        f"--container-mounts={','.join(mounts(submission))}",
        f"--container-workdir={Path.cwd()}",
        "--container-env=PYTHONPATH,PYTHONSAFEPATH",  # an image may have its own
    ]


def mounts(submission: Submission) -> list[str]:
    """Return what a container sees: the job's folder, the working directory, and what was asked for."""
    own = dict.fromkeys([str(submission.root), str(Path.cwd())])
    return [*(f"{folder}:{folder}" for folder in own), *submission.options.container_mounts]
