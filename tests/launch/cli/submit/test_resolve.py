"""From a command line to a job that does not change with what is edited later."""

from pathlib import Path

import pytest

from fcmae.core.errors import UserError
from fcmae.core.settings import read_settings
from fcmae.data.index import describe_lists, load_lists
from fcmae.engine.loggers import JsonLines
from fcmae.engine.run_folder import RunFolder
from fcmae.launch.cli.submit.resolve import resolve
from fcmae.launch.cluster.options import JobOptions
from fcmae.pretraining.config import PretrainConfig
from tests.launch.toys import make_pictures

ARGV = ["--config", "tiny.yaml", "--seed", "3", "--out", "run"]


def test_a_job_repeats_the_settings_of_its_submission(folder: Path) -> None:
    job = resolve("pretrain", [*ARGV, "--device", "cuda"], JobOptions(), acquire=True)
    assert job.folder == folder / "run"
    _, config, _, out, *_ = job.argv
    assert Path(config).parent == folder / "run" / "jobs"
    assert out == f"{folder}/run"
    assert job.command_line.startswith(f"fcmae pretrain --config {config} ")
    settings = read_settings(PretrainConfig, Path(config))
    assert (settings.seed, settings.device) == (3, "cuda")
    kept = Path(config).read_bytes()
    Path("tiny.yaml").write_text("epochs: 9")
    (folder / "run" / "config.yaml").unlink()  # as if by hand
    other = resolve("pretrain", ["--config", "digits", "--out", "run"], JobOptions(), acquire=True)
    assert other.argv[1] != config
    assert Path(config).read_bytes() == kept


def test_a_job_goes_on_with_changed_settings_and_changes_none_itself(folder: Path) -> None:
    job = resolve("pretrain", ARGV, JobOptions(), acquire=True)
    JsonLines(RunFolder(job.folder)).log({"step": 1})
    job = resolve("pretrain", [*ARGV, "--epochs", "9", "--change"], JobOptions(), acquire=True)
    settings = read_settings(PretrainConfig, Path(job.argv[1]))
    assert (settings.epochs, settings.change) == (9, False)
    assert len(RunFolder(job.folder).history.read()) == 2


def test_a_job_is_told_which_images_it_was_queued_with(folder: Path) -> None:
    make_pictures(folder / "images", 40)
    argv = [*ARGV, "--data", "images", "--network.in_chans", "3"]
    job = resolve("pretrain", argv, JobOptions(), acquire=True)
    assert resolve("pretrain", argv, JobOptions(), acquire=False) == job
    digest = describe_lists(load_lists(folder / "run" / "images.npz"))["digest"]
    assert job.argv[-2:] == ["--lists-digest", digest]
    make_pictures(folder / "images" / "new", 1)
    assert resolve("pretrain", argv, JobOptions(), acquire=False).argv[-1] != digest


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
