"""The batch script, run by bash where stand-ins play srun, scontrol, Python and containers."""

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fcmae.launch.cluster.job import Job, Submission
from fcmae.launch.cluster.options import JobOptions
from fcmae.launch.cluster.script import batch_script

# Leaves out the options, and is rank zero of one.
SRUN = """#!/bin/bash
echo "srun: $*" >> "$SITE/srun"
while [[ $1 == -* ]]; do shift; done
SLURM_PROCID=0 exec "$@"
"""
SCONTROL = """#!/bin/bash
case $1 in
  requeue) echo $2 >> "$SITE/requeued"; exit $REQUEUE_STATUS ;;
  *) echo "JobId=7 JobState=$STATE StartTime=2026-11-25T10:00:00 PreemptTime=$PREEMPTED Nodes=1" ;;
esac
"""
# What a process would do is in $DOES, and has the files of notes at hand.
PYTHON = """#!/bin/bash
printf '%s\\n' "$@" > "$SITE/argv"
env > "$SITE/environment"
note=$4
eval "$DOES"
"""


@dataclass
class Site:
    """A place with stand-ins in PATH, and a job to start there again and again."""

    folder: Path
    submission: Submission

    def start(self, does: str, *, state: str = "RUNNING", preempted: str = "None", requeue: int = 0) -> int:
        """Run the script as SLURM would; return its exit status."""
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "SITE": str(self.folder),
            "DOES": does,
            "STATE": state,
            "PREEMPTED": preempted,
            "REQUEUE_STATUS": str(requeue),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "node1",
        }
        script = batch_script(self.submission)
        ended = subprocess.run(
            ["bash"], input=script, env=environment, text=True, capture_output=True, timeout=60, check=False
        )
        self.output = ended.stdout + ended.stderr
        return ended.returncode

    @property
    def requeues(self) -> int:
        """How often the script asked SLURM to queue the job again."""
        path = self.folder / "requeued"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def add(self, name: str, text: str) -> None:
        """Put a stand-in into PATH."""
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def ask(self, **options: object) -> None:
        """Ask for something else."""
        asked = replace(self.submission.options, **options)  # type: ignore[arg-type]
        self.submission = replace(self.submission, options=asked)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site, and a job in a folder whose name a shell might misread."""
    root = tmp_path / '%j it\'s "$HOME" & `run`'
    job = Job("pretrain", ["--out", str(root), "--epochs", "3"], root)
    options = JobOptions(python=str(tmp_path / "bin" / "python"))
    site = Site(tmp_path, Submission([job], options, root, root / "code", "name"))
    site.submission.notes.mkdir(parents=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python", PYTHON), ("sleep", "#!/bin/sh")):
        site.add(name, text)
    return site


def notes(site: Site) -> set[str]:
    return {path.suffix[1:] for path in site.submission.notes.glob("7.*")}


def test_a_job_that_is_done_ends_well_whatever_comes_while_it_shuts_down(site: Site) -> None:
    assert site.start('touch "$note.done"; exit 143') == 0
    root = site.submission.root
    assert (site.folder / "argv").read_text().splitlines() == [
        "-u", "-m", "fcmae.launch.cluster.process", str(root / "jobs" / "7"), str(root),
        "pretrain", "--out", str(root), "--epochs", "3",
    ]  # fmt: skip
    assert site.requeues == 0


def test_without_done_no_status_is_zero(site: Site) -> None:
    assert site.start("exit 0") == 1
    assert site.start('touch "$note.stopped"; exit 0') == 1
    assert site.requeues == 2


@pytest.mark.parametrize(
    ("does", "state", "preempted", "requeues"),
    [
        ("touch $note.stopped", "RUNNING", "None", 1),
        ("touch $note.terminated; exit 143", "RUNNING", "None", 0),  # somebody's own kill
        ("touch $note.terminated; exit 143", "RUNNING", "2026-11-25T10:05:00", 1),
        ("exit 137", "RUNNING", "2026-11-25T10:05:00", 1),
        ("touch $note.terminated; exit 143", "RUNNING", "2026-11-25T09:00:00", 0),  # of an earlier start
        ("touch $note.stopped; exit 0", "CANCELLED", "None", 0),
        ("exit 143", "COMPLETING", "None", 0),  # preempted without grace: SLURM queues it again
        ("touch $note.final; exit 2", "RUNNING", "2026-11-25T10:05:00", 0),
        ("exit 1", "RUNNING", "None", 1),
    ],
)
def test_who_comes_back(site: Site, does: str, state: str, preempted: str, requeues: int) -> None:
    quoted = does.replace("$note", '"$note"')
    assert site.start(quoted, state=state, preempted=preempted) != 0
    assert site.requeues == requeues
    assert ("failed" in notes(site)) == (does == "exit 1")


def test_preemptions_and_failures_are_counted_apart(site: Site) -> None:
    site.ask(retries=1, stalls=9)
    for _ in range(3):
        site.start("exit 137", preempted="2026-11-25T10:05:00")
    assert site.start("exit 3") == site.start("exit 3") == 3
    assert site.requeues == 4
    jobs = site.submission.notes
    assert (jobs / "7.preempted").read_text() == "on node1\n" * 3
    assert (jobs / "7.failed").read_text() == "exit status 3 on node1\n" * 2


def test_the_process_that_failed_is_noted(site: Site) -> None:
    jobs = site.submission.notes
    (jobs / "7_0_log.out").write_text("srun: error: node1: task 9: Killed\n")  # of an earlier start
    killed = "srun: error: node2: tasks 3-4: Killed\nsrun: error: node1: task 0: Exited with exit code 1\n"
    site.start(f"printf '{killed}' >> \"${{note}}_0_log.out\"; exit 137")
    assert (jobs / "7.failed").read_text() == "process 3: Killed on node2\n"


def test_a_preemption_that_let_nothing_be_noted_is_counted_once_at_the_next_start(site: Site) -> None:
    log = site.submission.notes / "7_0_log.out"
    for second in (1, 2):
        line = f"slurmstepd-n: error: *** JOB 7 ON node1 CANCELLED AT 10:0{second} DUE TO PREEMPTION ***\n"
        with log.open("a") as file:
            file.write(line)
        for _ in range(2):
            site.start('touch "$note.stopped"')
    assert (site.submission.notes / "7.preempted").read_text() == log.read_text()


def test_a_refused_requeue_is_tried_three_times_and_ends_as_a_failure(site: Site) -> None:
    assert site.start('touch "$note.stopped"', requeue=1) == 1
    assert site.requeues == 3
    assert "does not queue job 7 again" in site.output


def test_notes_of_an_earlier_start_decide_nothing(site: Site) -> None:
    for event in ("stopped", "terminated", "final", "done"):
        (site.submission.notes / f"7.{event}").touch()
    assert site.start("exit 1") == 1
    assert notes(site) == {"started", "failed"}
    assert site.requeues == 1


def test_starts_without_a_new_checkpoint_are_bounded(site: Site) -> None:
    site.ask(stalls=2)
    checkpoints = site.submission.root / "checkpoints"
    checkpoints.mkdir()
    stopped = 'touch "$note.stopped"'
    for step in (10, 20):
        (checkpoints / f"step_{step:09d}.pt").touch()
        (checkpoints / f"step_{step + 50:09d}.pt.tmp").touch()
        assert [site.start(stopped), site.start(stopped)] == [1, 1]
    assert site.requeues == 4
    assert site.start(stopped) == 1
    assert site.requeues == 4
    assert "2 starts in a row saved nothing after step 20" in site.output


def test_each_start_meets_at_another_port(site: Site) -> None:
    ports = set()
    for _ in range(3):
        site.start("exit 1")
        variables = (site.folder / "environment").read_text().splitlines()
        ports |= {line for line in variables if line.startswith("MASTER_PORT=")}
    assert len(ports) == 3


def test_setup_comes_first_and_its_failure_is_one_of_the_job(site: Site) -> None:
    site.ask(setup=["export SEEN='a b'", "export MASTER_PORT=4"])
    assert site.start('[ "$SEEN $MASTER_PORT" = "a b 4" ] && touch "$note.done"') == 0
    site.ask(setup=["false", "touch $SITE/never"])
    assert site.start('touch "$note.done"') == 1
    assert "--setup failed" in site.output
    assert not (site.folder / "never").exists()
    assert "failed" in notes(site)


def test_an_array_runs_the_command_of_its_number(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    [job] = site.submission.jobs
    site.submission = replace(site.submission, jobs=[job, replace(job, argv=["--seed", "a 'b'"])])
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    assert site.start('touch "$note.done"') == 0
    assert (site.folder / "argv").read_text().splitlines()[-3:] == ["pretrain", "--seed", "a 'b'"]


def test_cores_are_those_asked_for_or_what_the_loader_needs(site: Site) -> None:
    def cores() -> list[str]:
        return [line for line in batch_script(site.submission).splitlines() if "cpus-per-task=" in line]

    assert cores() == []
    site.ask(gpus_per_node=2)
    assert cores() == ["#SBATCH --cpus-per-task=9", "srun=(--cpus-per-task=9)"]
    [job] = site.submission.jobs
    site.submission = replace(site.submission, jobs=[replace(job, workers=3)])
    assert cores() == ["#SBATCH --cpus-per-task=4", "srun=(--cpus-per-task=4)"]
    site.ask(cpus_per_task=2)
    assert cores() == ["#SBATCH --cpus-per-task=2", "srun=(--cpus-per-task=2)"]


# Takes note of its options, and starts what comes after the image.
RUNTIME = """#!/bin/bash
printf '%s\\n' "$@" > "$SITE/container"
until [ "$1" = image.sif ]; do shift; done
shift
exec "$@"
"""


@pytest.mark.parametrize("runtime", ["apptainer", "docker"])
def test_processes_run_in_a_container(
    site: Site, runtime: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    site.add(runtime, RUNTIME)
    site.ask(
        container="image.sif", container_runtime=runtime, gpus_per_node=2, container_mounts=["/data:/data"]
    )
    assert site.start('touch "$note.done"') == 0
    given = (site.folder / "container").read_text().splitlines()
    root, bind = site.submission.root, {"apptainer": "--bind", "docker": "--volume"}[runtime]
    for mount in (f"{root}:{root}", f"{tmp_path}:{tmp_path}", "/data:/data"):
        assert f"{bind}={mount}" in given
    if runtime == "apptainer":
        assert given[:2] == ["exec", "--nv"]
    else:
        assert given[given.index("--gpus") + 1] == '"device=2,3"'
        assert {"SLURM_PROCID", "SLURM_JOB_ID", "PYTHONPATH", "MASTER_PORT"} <= set(given)
        assert f"--workdir={tmp_path}" in given
    assert site.start("exit 3") == 3  # the status comes through


def test_pyxis_is_asked_by_options_of_srun(site: Site) -> None:
    site.ask(container="nvcr.io#nvidia/pytorch:25.01-py3", container_mounts=["/data:/data"])
    assert site.start('touch "$note.done"') == 0
    asked = (site.folder / "srun").read_text()
    root = site.submission.root
    assert "--container-image=nvcr.io#nvidia/pytorch:25.01-py3" in asked
    assert f"--container-mounts={root}:{root}," in asked
    assert ",/data:/data " in asked
    assert "--container-env=PYTHONPATH,PYTHONSAFEPATH" in asked
