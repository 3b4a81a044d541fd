"""Before jobs are queued: what waits for a run reads its settings, which are left alone."""

from pathlib import Path

import pytest

from fcmae.launch.cli.submit.resolve import resolve
from fcmae.launch.cluster.base import State
from fcmae.launch.cluster.options import JobOptions
from fcmae.launch.cluster.records import Record, write_record
from fcmae.launch.cluster.slurm import Slurm
from tests.launch.toys import refusal


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["pretrain", "--cluster", "local", "--"], ["--out", "all/pretrain"]),
        (["pretrain", "--cluster", "local", "--sweep", "epochs=7", "--"], ["--out", "all"]),
        (["pipeline", "--out", "all", "--", "pretrain"], ["--", "finetune"]),
    ],
    ids=["command", "sweep", "pipeline"],
)
def test_settings_of_a_queued_job_are_left_alone(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    before: list[str],
    after: list[str],
) -> None:
    run = folder / "all" / ("epochs=7" if "--sweep" in before else "pretrain")
    resolve("pretrain", ["--config", "tiny.yaml", "--out", str(run)], JobOptions(), acquire=True)
    write_record(run, Record("1", "slurm", "pretrain", str(run / "jobs")))
    monkeypatch.setattr(Slurm, "state", lambda *_: State("PENDING", True))
    monkeypatch.setattr(Slurm, "check_jobs", lambda *_: None)
    settings = (run / "config.yaml").read_text()
    argv = ["submit", *before, "--config", "tiny.yaml", "--epochs", "7", *after]
    assert "job 1 is pending for this run" in refusal(capsys, *argv)
    assert (run / "config.yaml").read_text() == settings
