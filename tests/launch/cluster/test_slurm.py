"""What is asked of SLURM before and when jobs are queued, where a stand-in plays sbatch."""

from pathlib import Path
from unittest import mock

import pytest

from fcmae.core.errors import UserError
from fcmae.launch.cluster.job import Job, Submission
from fcmae.launch.cluster.options import JobOptions
from fcmae.launch.cluster.slurm import Slurm, environment

# Keeps its options and its script; answers, and ends, as it is told.
SBATCH = """#!/bin/bash
echo "$@" >> "$SITE/options"
cat > "$SITE/script"
printf "$SAYS"
echo "$REFUSES" >&2
[ -z "$REFUSES" ]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in of sbatch, which comes first in PATH."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(SBATCH)
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}", prepend=":")
    for name, value in (("SITE", str(tmp_path)), ("SAYS", "31;cluster\\n"), ("REFUSES", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("fcmae.launch.cluster.slurm.cluster_is_here", lambda: True)
    return tmp_path


def submission(folder: Path, jobs: int = 1, gpus: int | None = None, cpus: int | None = None) -> Submission:
    job = Job("pretrain", ["--seed", "1"], folder / "run")
    return Submission(
        [job] * jobs,
        JobOptions(gpus_per_node=gpus, cpus_per_task=cpus),
        folder / "run",
        folder / "code",
        "name",
    )


def test_ids_are_those_that_sbatch_gives_and_the_script_is_kept(site: Path) -> None:
    assert Slurm().submit(submission(site)) == ["31"]
    assert Slurm().submit(submission(site, jobs=3)) == ["31_0", "31_1", "31_2"]
    kept = (site / "run" / "jobs" / "31_submission.sh").read_text()
    assert kept == (site / "script").read_text() == Slurm().preview(submission(site, jobs=3))
    assert "#SBATCH --array=0-2%3" in kept


def test_a_refusal_is_in_slurms_words_with_what_was_asked_unasked(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slurm().check_jobs(submission(site))
    assert (site / "options").read_text() == "--test-only\n"
    monkeypatch.setenv("REFUSES", "allocation failure:\n  no such node")
    with pytest.raises(UserError, match=r"SLURM refuses the job: allocation failure: no such node$"):
        Slurm().check_jobs(submission(site))
    with pytest.raises(UserError, match=r"\(9 CPUs for each process are asked for, unless --cpus-per-task"):
        Slurm().check_jobs(submission(site, gpus=1))
    with pytest.raises(UserError, match=r"no such node$"):
        Slurm().check_jobs(submission(site, gpus=1, cpus=2))


def test_a_folder_that_slurm_cannot_write_to_is_named(site: Path) -> None:
    with pytest.raises(UserError, match="backslash"):
        Slurm().check_jobs(submission(site / "a\\b"))


def test_a_job_inherits_no_job() -> None:
    shell = {
        "SLURM_JOB_ID": "3",
        "SLURM_NTASKS": "4",
        "SBATCH_PARTITION": "moon",
        "SRUN_CPUS_PER_TASK": "2",
        "SUBMITIT_EXECUTOR": "local",
        "MASTER_PORT": "1",
        "RANK": "7",
        "SLURM_CONF": "/etc/slurm.conf",
        "OMP_NUM_THREADS": "5",
    }
    with mock.patch.dict("os.environ", shell):
        inherited = environment()
    assert {name: inherited.get(name) for name in shell} == {
        **dict.fromkeys(shell),
        "SLURM_CONF": "/etc/slurm.conf",
        "OMP_NUM_THREADS": "5",
    }
