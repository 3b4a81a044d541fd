"""What `fcmae jobs` says of jobs on a real cluster, and that they keep what they were queued with."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fcmae.data.index import ImageIndex
from fcmae.launch.cli.main import main
from tests.launch.cluster.on_slurm import (
    RECIPE,
    cancel_all,
    ended,
    note,
    output,
    process_of,
    slurm_answers,
    steps,
    submit,
    until,
    write_recipe,
)
from tests.launch.toys import NETWORK, make_pictures, refusal

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not slurm_answers(), reason="no SLURM cluster: squeue does not answer"),
]
PICTURES = {**RECIPE, "data": "images", "batch_size": 4, "network": {**NETWORK, "in_chans": 3}}


@pytest.fixture(autouse=True)
def recipe(folder: Path) -> Iterator[None]:
    """A recipe in the working directory; jobs left over are cancelled."""
    write_recipe(folder)
    yield
    cancel_all(folder)


def shown(capsys: pytest.CaptureFixture[str], status: int = 0) -> str:
    """Return what `fcmae jobs` prints of the run."""
    capsys.readouterr()
    assert main(["jobs", "run"]) == status
    return capsys.readouterr().out


def test_a_job_keeps_its_images_and_settings_and_tells_why_it_waits(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pictures(folder / "images", 12)
    Path("tiny.yaml").write_text(yaml.safe_dump(PICTURES))
    submit("pretrain", "--slurm-hold", "", "--", "--config", "tiny.yaml", "--out", "run")
    assert re.search(r"PENDING *│ *JobHeldUser *│ *0:\d\d *│", shown(capsys))
    make_pictures(folder / "images" / "new", 12)
    Path("run/config.yaml").write_text("epochs: 7\n")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", "/nowhere")
        assert "NO ANSWER" in shown(capsys, status=2)
        argv = ["submit", "pretrain", "--", "--config", "tiny.yaml", "--out", "run"]
        elsewhere.setattr("fcmae.launch.cluster.slurm.Slurm.check_jobs", lambda *_: None)
        assert "is not known" in refusal(capsys, *argv)
    record = Path("run/jobs/submitted.json").read_text()
    subprocess.run(["scontrol", "release", yaml.safe_load(record)["job"]], check=True)
    until(lambda: ended(folder / "run"), "it does not end")
    assert re.search(r"COMPLETED .* 1\.00/1 .* 1 *│ *0 *│ *0 *│", shown(capsys)), output(folder / "run")
    assert len(ImageIndex.load("run/images.npz")) == 12


def test_the_output_of_the_process_that_failed_is_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "run"
    argv = ["--nodes", "2", "--retries", "0", "--", "--config", "tiny.yaml", "--epochs", "50"]
    submit("pretrain", *argv, "--out", "run")
    until(lambda: len(steps(run)) > 3, "no steps")
    os.kill(process_of(run, 1), 9)
    until(lambda: ended(run), "it does not give up")
    assert re.fullmatch(r"process 1: Killed on \w+", note(run, "failed")[0])
    table = shown(capsys)
    assert re.search(r"FAILED, unfinished .* 1 *│ *0 *│ *1 *│", table)
