"""From a command line to a job: settings checked, resolved and kept in the folder of its run."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from fcmae.core.device import check_device_name
from fcmae.core.errors import UserError
from fcmae.core.files import write_atomically
from fcmae.core.recipes import LISTS_DIGEST
from fcmae.data.index import describe_lists
from fcmae.engine.history import plain
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.submit.commands import JOB_COMMANDS
from fcmae.launch.cluster.code import DIGITS
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
        folder = Path("runs", f"{name}-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
        return resolve_measuring(name, argv, folder, options)
    config = read_training(name, argv, options)
    device = config.device if config.device == "cpu" else "auto"  # this machine may have no GPU
    # The lock on the folder is let go of with the object: the job takes it.
    resolved, run = find_run(replace(config, device=device), acquire)
    resolved = replace(resolved, device=config.device, change=False)  # the folder has changed by now
    return freeze(name, resolved, run, options, write=acquire)


def freeze(name: str, config: Any, run: RunFolder, options: JobOptions, *, write: bool) -> Job:
    """Return the job of a command that trains, with settings and list of images as they are now.

    The settings lie beside the notes on the run's jobs, in a file named by its content, which no later job
    changes. The list lies in the run's folder, and the job is told its digest.

    Args:
        name: of the command
        config: its settings
        run: the run's folder
        options: what the job asks of the cluster
        write: whether to write the settings
    """
    folder, list_data = run.path.absolute(), JOB_COMMANDS[name].list_data
    text = yaml.safe_dump(plain(asdict(config)), sort_keys=False, allow_unicode=True).encode()
    settings = RunFolder(folder).jobs / f"{hashlib.sha256(text).hexdigest()[:DIGITS]}.yaml"
    if write:
        settings.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(settings) as file:
            file.write(text)
    argv = ["--config", str(settings), "--out", str(folder), "--loop.resume", "true"]
    lists = list_data(config, run) if list_data else []
    if lists:
        argv += [LISTS_DIGEST, str(describe_lists(lists)["digest"])]
    return Job(name, argv, folder, config.images.workers, describe_batch(config, options.processes))


def describe_batch(config: Any, processes: int) -> str:
    """Return how the batch of a training is cut, for a person to read."""
    steps = config.optim.accumulation_steps
    factors = [counted(processes, "process", "es")]
    if steps > 1:
        factors.append(counted(steps, "accumulation step"))
    images = counted(config.batch_size // (processes * steps), "image")
    return f"batch {config.batch_size} = {' x '.join([*factors, images])}"


def counted(count: int, noun: str, plural: str = "s") -> str:
    """Return a number and a noun, which is in the plural unless there is one."""
    return f"{count} {noun}{'' if count == 1 else plural}"


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


def resolve_measuring(
    name: str,
    argv: list[str],
    folder: Path,
    options: JobOptions,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> Job:
    """Check the options of a command that measures, and return its job; its device the job will look for.

    Args:
        name: of the command
        argv: its options
        folder: absolute; for the record of the job
        options: what the job asks of the cluster
        before: options that those of `argv` win over, not checked: the job's folder is yet to be made
        after: options that win: weights that are not there yet; where there are any, no file is checked

    Raises:
        UserError: an option that cannot be, weights that cannot be measured so, or several processes for a
            command that runs in one
    """
    command = JOB_COMMANDS[name]
    if options.processes > 1 and command.alone:
        raise UserError(f"fcmae {name} runs in one process: {options.processes} are asked for")
    given = command.make_parser().read([*argv, *after])
    check_device_name(given.device)
    if not after:
        command.read([*argv, "--device", "auto"])
    batch = f"{counted(options.processes, 'process', 'es')} x {given.batch_size} images"
    return Job(name, [*before, *argv, *after], folder, given.workers, batch)
