"""What tests and scripts do to runs on a real cluster: submit, wait, look, preempt."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from fcmae.engine.checkpoint import Checkpoints
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.main import main
from fcmae.launch.cluster.records import find_records, read_record
from fcmae.launch.cluster.registry import find_cluster
from tests.launch.toys import TINY

RECIPE = {
    **TINY,
    "mask_ratio": 0.5,
    "pictures_every": 1000,
    "loop": {"log_every": 1, "save_minutes": 0.01, "loggers": []},
}
PATIENCE = 240.0  # seconds


def slurm_answers() -> bool:
    """Return whether there is a cluster."""
    if shutil.which("squeue") is None:
        return False
    return subprocess.run(["squeue", "-h"], capture_output=True, timeout=20).returncode == 0


def write_recipe(folder: Path) -> Path:
    """Write the settings of a small pre-training, and return the file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def submit(*argv: str) -> None:
    """Queue what `fcmae submit` is asked for."""
    assert main(["submit", *argv]) == 0


def until(holds: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until something holds.

    Args:
        holds: asked a few times a second
        what: to say else
        patience: in seconds

    Raises:
        AssertionError: it takes too long
    """
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.4)


def ended(run: Path) -> bool:
    """Return whether the job of a run is no more."""
    record = read_record(run)
    return record is not None and find_cluster(record.cluster).state(record).active is False


def output(run: Path) -> str:
    """Return all that a job printed."""
    return "\n".join(path.read_text() for path in sorted(run.glob("jobs/*log.out")))


def final_weights(run: Path, epochs: int) -> dict[str, torch.Tensor]:
    """Return the weights of a run, which has to be at its end."""
    state = Checkpoints(run / "checkpoints").newest()
    assert state is not None, output(run)
    assert state["progress"]["finished_epochs"] == epochs, output(run)
    model: dict[str, torch.Tensor] = state["model"]
    return model


def steps(run: Path) -> list[int]:
    """Return the steps that a run logged."""
    return [each["step"] for each in RunFolder(run).records() if "images_per_s" in each]


def note(run: Path, event: str) -> list[str]:
    """Return what a job noted under an event."""
    record = read_record(run)
    assert record is not None
    return record.noted(event)


def process_of(run: Path, rank: int) -> int:
    """Return the process id of a rank of the job in a run folder.

    Raises:
        AssertionError: there is no such process
    """
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = str(run).encode() in argv and b"fcmae.launch.cluster.process" in argv
        if ours and f"SLURM_PROCID={rank}".encode() in environment and b"bash" not in argv[0]:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


def cancel_all(folder: Path) -> None:
    """Cancel the jobs of the runs in a folder, and these alone: the user may have jobs of her own."""
    for record in find_records(folder).values():
        cluster = find_cluster(record.cluster)
        if cluster.state(record).active:
            cluster.cancel(record)


def preempt_by(signal: str) -> None:
    """Make the cluster send a preempted job SIGTERM, as most sites do (`term`), or its own signal (`user`).

    Without the switch that the local cluster has, the site's own way is tested.
    """
    switch = Path(os.environ.get("FCMAE_SHARED", "../shared"), "slurm", "start-slurm")
    if switch.exists():
        subprocess.run([switch, "--preempt-signal", signal], check=True, timeout=60)


def preempt() -> None:
    """Queue a short job that needs both machines whole."""
    subprocess.run(
        ["sbatch", "-p", "local", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
