"""From a command line to a job: settings checked, resolved and kept in the folder of its run."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fcmae.core.device import check_device_name
from fcmae.core.errors import UserError
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.submit.commands import JOB_COMMANDS
from fcmae.launch.cluster.job import Job
from fcmae.launch.cluster.options import JobOptions


def resolve(name: str, argv: list[str], options: JobOptions, *, acquire: bool) -> Job:
    """Check a command's settings; return the job that repeats them, whatever is edited until it starts.

    Args:
        name: of the command
        argv: its options
        options: what the job asks of the cluster
        acquire: also make the run's folder its own, with the settings in it; else nothing is written

    Raises:
        UserError: a setting that cannot work
    """
    find_run = JOB_COMMANDS[name].find_run
    if find_run is None:
        workers = check_measuring(name, argv)
        folder = Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
        return Job(name, argv, folder, workers)
    config = read_training(name, argv, options)
    device = config.device if config.device == "cpu" else "auto"  # this machine may have no GPU
    # The lock on the folder is let go of with the object: the job takes it.
    folder = find_run(replace(config, device=device), acquire).path.absolute()
    return Job(name, resolved_argv(folder), folder, config.images.workers)


def resolved_argv(folder: Path) -> list[str]:
    """Return the options that go on with the run in a folder."""
    return ["--config", str(RunFolder(folder).config), "--out", str(folder), "--loop.resume", "true"]


def read_training(name: str, argv: list[str], options: JobOptions) -> Any:
    """Return the settings of a command that trains, after seeing that its batch divides by the processes.

    Raises:
        UserError: it does not, or the device is none
    """
    config = JOB_COMMANDS[name].read(argv)
    check_device_name(config.device)
    processes = options.processes * config.optim.accumulation_steps
    if config.batch_size % processes:
        raise UserError(
            f"batch size {config.batch_size} does not divide by {options.processes} processes x "
            f"{config.optim.accumulation_steps} accumulation steps: choose a multiple of {processes}"
        )
    return config


def check_measuring(name: str, argv: list[str], weights_exist: bool = True) -> int | None:
    """Check the options of a command that measures; whether its device is there, the job will see.

    Returns:
        how many processes are to read images, where the options say so

    Raises:
        UserError: an option that cannot be, or weights that cannot be measured so, where they exist
    """
    command = JOB_COMMANDS[name]
    options = command.make_parser().read(argv)
    check_device_name(options.device)
    if weights_exist:
        command.read([*argv, "--device", "auto"])
    workers: int | None = options.workers
    return workers
