"""From a command line to a job that does not change with what is edited later."""

from pathlib import Path

import pytest
import yaml

from fcmae.core.errors import UserError
from fcmae.launch.cli.submit.resolve import resolve
from fcmae.launch.cluster.options import JobOptions

ARGV = ["--config", "tiny.yaml", "--seed", "3", "--out", "run"]


def test_a_job_repeats_the_settings_of_its_submission(folder: Path) -> None:
    job = resolve("pretrain", ARGV, JobOptions(), acquire=True)
    assert job.folder == folder / "run"
    assert job.argv[:4] == ["--config", f"{folder}/run/config.yaml", "--out", f"{folder}/run"]
    assert job.command_line.startswith(f"fcmae pretrain --config {folder}/run/config.yaml ")
    assert yaml.safe_load((folder / "run" / "config.yaml").read_text())["seed"] == 3
    assert job.workers == 0


def test_a_command_that_measures_gets_a_folder_for_its_record(folder: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        resolve("evaluate", ["--weights", "nowhere"], JobOptions(), acquire=False)
    with pytest.raises(UserError, match="--device gpu: unknown device"):
        resolve("probe", ["--weights", "run", "--device", "gpu"], JobOptions(), acquire=False)


def test_a_batch_that_the_processes_cannot_share_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="batch size 32 does not divide by 5 processes x 1 accumulation"):
        resolve("pretrain", ARGV, JobOptions(tasks_per_node=5), acquire=True)
    assert not (folder / "run").exists()


def test_a_gpu_that_only_the_cluster_has_is_no_error_here(folder: Path) -> None:
    assert resolve("pretrain", [*ARGV, "--device", "cuda"], JobOptions(), acquire=False).folder.name == "run"
