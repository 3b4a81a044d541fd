"""`fcmae submit COMMAND --sweep`: one run for each combination of values, as an array of jobs."""

import itertools
from pathlib import Path

from fcmae.core.errors import UserError
from fcmae.launch.cli.submit.commands import JOB_COMMANDS
from fcmae.launch.cli.submit.queue import check, freeze_code, preview, queue
from fcmae.launch.cli.submit.request import Request
from fcmae.launch.cli.submit.resolve import resolve


def submit_sweep(name: str, argv: list[str], request: Request) -> int:
    """Queue a run for every combination of the swept values, each in a folder of its own.

    Returns:
        the exit status

    Raises:
        UserError: anything that can be known to fail, before anything is queued
    """
    if not JOB_COMMANDS[name].trains:
        trains = [each for each, command in JOB_COMMANDS.items() if command.trains]
        raise UserError(f"--sweep is for {' and '.join(trains)}: {name} trains nothing")
    root = Path(JOB_COMMANDS[name].read(argv).out or Path("runs") / f"{name}-sweep").absolute()
    swept = [
        [*argv, *point_argv(point), "--out", str(root / ",".join(f"{key}={value}" for key, value in point))]
        for point in combinations(request.sweep)
    ]
    jobs = [resolve(name, each, request.options, acquire=False) for each in swept]
    if request.dry_run:
        print(preview([(jobs, request)], root))
        return 0
    check(jobs, request, root)
    jobs = [resolve(name, each, request.options, acquire=True) for each in swept]
    ids = queue(jobs, request, root, freeze_code(root))
    print(f"queued {len(ids)} jobs, {ids[0]} to {ids[-1]}; the table of their runs:\n  fcmae jobs {root}")
    return 0


def combinations(sweep: list[str]) -> list[list[tuple[str, str]]]:
    """Return every combination of swept values: lists of (name, value).

    Args:
        sweep: `name=value,value`, one for each swept setting

    Raises:
        UserError: a sweep without name or values, or a name swept twice
    """
    axes = []
    for each in sweep:
        name, _, values = each.partition("=")
        listed = [value for value in values.split(",") if value]
        if not name or not listed:
            raise UserError(f"--sweep {each}: expected name=value,value")
        axes.append([(name.removeprefix("--").replace("-", "_"), value) for value in listed])
    names = [axis[0][0] for axis in axes]
    if len(set(names)) < len(names):
        raise UserError(f"--sweep names {max(names, key=names.count)} twice: give all its values at once")
    return [list(point) for point in itertools.product(*axes)]


def point_argv(point: list[tuple[str, str]]) -> list[str]:
    """Return one combination as options of the command."""
    return [f"--{name}={value}" for name, value in point]
