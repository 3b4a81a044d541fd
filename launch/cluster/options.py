"""What a job asks of a cluster: options of `fcmae submit`, with defaults of the site."""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import yaml

from fcmae.core.errors import UserError
from fcmae.core.settings import Parser

ENVIRONMENT = "FCMAE_SLURM_"
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


@dataclass
class JobOptions:
    """What a job asks of the cluster.

    Args:
        cluster: SLURM; this machine, in the background, without it; or this very process (debug)
        nodes: machines
        gpus_per_node: GPUs of each; none asks for no GPU
        tasks_per_node: processes on each machine; none is one for each GPU, or one
        cpus_per_task: cores of each process
        mem: memory of each machine, such as 64G
        time: time limit, as SLURM writes it: minutes, hours:minutes:seconds or days-hours:minutes
        partition: where to queue
        account: who pays
        qos: quality of service
        constraint: features that the machines must have
        exclude: machines to leave out
        comment: note to the cluster's accounting
        job_name: name in the queue; none is fcmae-<stage>
        signal_seconds: how long before its time limit a job is told to save and queue again
        retries: how often a job that failed by itself is queued again
        parallel: jobs of a sweep that run at the same time
    """

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    nodes: int = 1
    gpus_per_node: int | None = None
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: str = "1-00:00"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    comment: str | None = None
    job_name: str | None = None
    signal_seconds: int = 120
    retries: int = 2
    parallel: int = 256

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def processes(self) -> int:
        """Processes of the job."""
        return self.nodes * self.tasks

    def check(self) -> None:
        """Refuse what no cluster can give.

        Raises:
            UserError: a count below 1, or a time limit that is none or too short to save in
        """
        for name in ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}: it must be at least 1")
        if self.cluster == "local" and self.nodes > 1:
            raise UserError(f"--nodes {self.nodes}: --cluster local is this one machine")
        if 60 * minutes(self.time) <= self.signal_seconds:
            raise UserError(
                f"--time {self.time} leaves nothing before the signal to save, {self.signal_seconds} s "
                "before the limit: ask for more time, or lower --signal-seconds"
            )


def minutes(time: str) -> float:
    """A time limit as SLURM writes it, in minutes: 90, 90:00, 1:30:00, 0-1:30, 1-0.

    Raises:
        UserError: it is none
    """
    match = TIME.fullmatch(time)
    if not match:
        raise UserError(f"--time {time}: expected minutes, hours:minutes:seconds or days-hours:minutes")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:
        hours, mins, seconds = [*parts, 0, 0][:3]
        return 60 * (24 * int(match["days"]) + hours) + mins + seconds / 60
    hours, mins, seconds = (0, *parts, 0) if len(parts) == 1 else ([0, *parts] if len(parts) == 2 else parts)
    return 60 * hours + mins + seconds / 60


@dataclass
class Submission:
    """A command line of `fcmae submit`, read.

    Args:
        job: what is asked of the cluster
        extra: further options of sbatch, by name
        sweep: `name=value,value` of each swept setting
        dry_run: only print the batch script
    """

    job: JobOptions
    extra: dict[str, str]
    sweep: list[str]
    dry_run: bool


def read_submission(stage: str, argv: list[str]) -> Submission:
    """Read the words before `--`. What is not given is the site's default, or ours.

    Raises:
        UserError: an unknown option, a wrong value, or a defaults file that cannot be read
    """
    extra: dict[str, str] = {}
    words: list[str] = []
    rest = iter(argv)
    for word in rest:
        if word.startswith("--slurm-"):
            key, equals, value = word.removeprefix("--slurm-").partition("=")
            extra[key] = value if equals else next(rest, "")
        else:
            words.append(word)
    parser = Parser(
        f"fcmae submit {stage}",
        "Queue a job. The stage's own options follow after --; --slurm-KEY VALUE goes to sbatch as it is.",
    )
    parser.add_class_arguments(JobOptions)
    parser.add_argument(
        "--sweep", action="append", default=[], help="name=value,value: one job for each value"
    )
    parser.add_argument("--dry_run", action="store_true", help="only print the batch script")
    options = parser.read([*site_defaults(), *words])
    job = JobOptions(**{each.name: getattr(options, each.name) for each in fields(JobOptions)})
    job.check()
    return Submission(job, extra, options.sweep, options.dry_run)


def site_defaults() -> list[str]:
    """Options from the file of the site and from the environment, which wins, as words of a command line.

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
        unknown = [name for name in values if name not in JobOptions.__dataclass_fields__]
        if unknown:
            known = ", ".join(JobOptions.__dataclass_fields__)
            raise UserError(f"{config}: unknown option {unknown[0]!r}; there are {known}")
    for name in JobOptions.__dataclass_fields__:
        if ENVIRONMENT + name.upper() in os.environ:
            values[name] = os.environ[ENVIRONMENT + name.upper()]
    return [f"--{name}={value}" for name, value in values.items()]
