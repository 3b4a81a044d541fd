"""The options of `fcmae submit` before `--`, with defaults of the site."""

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_type_hints

import docstring_parser
import yaml

from fcmae.core.errors import UserError
from fcmae.core.settings import Parser
from fcmae.launch.cluster.base import Cluster
from fcmae.launch.cluster.options import JobOptions
from fcmae.launch.cluster.registry import find_cluster

ENVIRONMENT = "FCMAE_SLURM_"
NAMES = tuple(each.name for each in fields(JobOptions))
SWEEP = "A sweep"
GROUPS = {  # of a job's options, in its help
    "Where, and how much": (
        "cluster", "nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "mem", "time",
    ),
    "In the queue": ("partition", "account", "qos", "constraint", "exclude", "comment", "job_name"),
    "Starting again": ("signal_seconds", "retries", "stalls"),
    "Software": ("setup", "container", "container_runtime", "container_mounts", "python"),
    SWEEP: ("parallel",),
}  # fmt: skip
REPEATED = ("--setup", "--container-mounts")  # options that add to what the site gives


@dataclass(frozen=True)
class Request:
    """What is asked of `fcmae submit`.

    Args:
        cluster: where jobs run
        options: what each job asks of it
        extra: further options of sbatch, by name
        sweep: `name=value,value` of each swept setting
        dry_run: only print what would be queued
    """

    cluster: Cluster
    options: JobOptions
    extra: dict[str, str]
    sweep: list[str]
    dry_run: bool


def make_parser(command: str) -> Parser:
    """Return the parser of a job's options, by group, for the command that it runs."""
    parser = Parser(
        f"fcmae submit {command}",
        f"Queue a job that runs fcmae {command}, whose own options follow after --. It starts again after "
        "preemption, time limits and failures, until it is done. --slurm-KEY VALUE goes to sbatch as --KEY.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="queue nothing; print command lines, the batch of each process, and the batch script",
    )
    explained = {
        each.arg_name: each.description for each in docstring_parser.parse(JobOptions.__doc__ or "").params
    }
    kinds = get_type_hints(JobOptions)
    defaults = vars(JobOptions())
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        if title == SWEEP:
            group.add_argument(
                "--sweep",
                action="append",
                default=[],
                help="name=value,value: one job for each value; repeatable",
            )
        for name in names:
            group.add_argument(f"--{name}", type=kinds[name], default=defaults[name], help=explained[name])
    return parser


def read_request(command: str, argv: list[str]) -> Request:
    """Return what is asked. What is not given is the site's default, or ours.

    Args:
        command: what the job runs
        argv: the options before `--`

    Raises:
        UserError: an unknown option, a wrong value, a defaults file that cannot be read, or what the cluster
            cannot give
    """
    extra: dict[str, str] = {}
    ours: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        option, equals, value = word.partition("=")
        if not option.startswith("--slurm-") and option not in REPEATED:
            ours.append(word)
            continue
        if not equals and words and not words[0].startswith("--"):  # else one without a value, as --exclusive
            value = words.pop(0)
        if option in REPEATED:
            ours.append(f"{option}+={value}")
        else:
            extra[option.removeprefix("--slurm-")] = value
    read = make_parser(command).read([*site_defaults(), *ours])
    options = JobOptions(**{name: getattr(read, name) for name in NAMES})
    options.check()
    cluster = find_cluster(options.cluster)
    cluster.check_options(options)
    cluster.check_extra(extra)
    if not cluster.queues and (read.sweep or read.dry_run):
        asked = "--sweep is for jobs" if read.sweep else "--dry-run shows what would be queued"
        raise UserError(f"{asked}, and --cluster {options.cluster} queues nothing")
    return Request(cluster, options, extra, read.sweep, read.dry_run)


def site_defaults() -> list[str]:
    """Return options from the file of the site and from the environment, which wins, as on a command line.

    The file is ~/.config/fcmae/slurm.yaml (or under XDG_CONFIG_HOME) and holds options by name, such as
    `partition: gpu`; the environment has FCMAE_SLURM_PARTITION=gpu.

    Raises:
        UserError: the file is not a list of options and values
    """
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fcmae" / "slurm.yaml"
    values: dict[str, object] = {}
    if config.exists():
        try:
            values = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{config}: {' '.join(str(error).split())}") from error
        if not isinstance(values, dict):
            raise UserError(f"{config}: expected options and values, such as `partition: gpu`")
        unknown = [name for name in values if name not in NAMES]
        if unknown:
            raise UserError(f"{config}: unknown option {unknown[0]!r}; there are {', '.join(NAMES)}")
    for name in NAMES:
        if ENVIRONMENT + name.upper() in os.environ:
            values[name] = os.environ[ENVIRONMENT + name.upper()]
    for name in values:
        if f"--{name.replace('_', '-')}" in REPEATED:
            each = values[name]
            values[name] = json.dumps(each if isinstance(each, list) else [each])
    return [f"--{name}={value}" for name, value in values.items()]
